# SPDX-License-Identifier: Apache-2.0
"""Which machines may still fetch their user-data, and which have, when, and from where?

`state/<cluster>/serve.journal`: one JSON object a line, added under a lock and forced to disk
before anything is given out, so that whatever cuts a server off, nothing is given twice. A URL's
token is not in it, only its hash.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from kubekiln.errors import KubekilnError
from kubekiln.files import locked, make_dir, storage_errors

NAME = "serve.journal"
# Longer than a line, each of which has a time and a token of its own.
_END = 512
Verdict = Literal["given", "unknown", "expired", "gone"]


@dataclass(frozen=True)
class Offer:
    """One machine's user-data, to be fetched once."""

    node: str
    token: str
    """Hash of the URL's token."""
    expires: datetime
    fetched: datetime | None = None
    by: str = ""
    """Address of whoever fetched it."""


@dataclass(frozen=True)
class Answer:
    """What somebody who asks is told, and about which offer."""

    verdict: Verdict
    offer: Offer | None = None


@dataclass(frozen=True)
class _Seen:
    """How much of the journal was read, and of which file."""

    size: int = 0
    lines: int = 0
    end: bytes = b""
    """Of what was read: the journal is the same one as long as that is where it was."""


class Offers:
    """The journal of one cluster; safe for several processes and threads."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._reading = threading.Lock()
        self._known: dict[str, Offer] = {}
        self._seen = _Seen()

    def read(self) -> dict[str, Offer]:
        """Give what is offered, by the hash of its token.

        The journal only grows, by whole lines: what was read before is not read again.
        """
        with self._reading:
            for line in self._new_lines():
                token = line["token"]
                if line["event"] == "offered":
                    self._known[token] = Offer(line["node"], token, _time(line["expires"]))
                elif token in self._known:
                    fetched, by = _time(line["time"]), line.get("by", "")
                    self._known[token] = replace(self._known[token], fetched=fetched, by=by)
            return dict(self._known)

    def offer(self, tokens: Mapping[str, str], *, now: datetime, hours: int) -> list[str]:
        """Offer nodes' user-data by the hashes of their tokens; gives the nodes that are new here.

        What is offered stays as it is, fetched or not; what ended unfetched is offered anew.
        """
        with self._alone():
            known = self.read()
            new = {
                node: token
                for node, token in tokens.items()
                if token not in known
                or (known[token].fetched is None and known[token].expires < now)
            }
            self._offer(new, now=now, hours=hours)
        return sorted(new)

    def offer_again(self, tokens: Mapping[str, str], *, now: datetime, hours: int) -> None:
        """Offer nodes' user-data once more, by the hashes of their tokens, fetched or not."""
        with self._alone():
            self._offer(tokens, now=now, hours=hours)

    def take(self, token: str, *, by: str, now: datetime) -> Answer:
        """Judge a request by its token's hash; what is given counts as fetched from here on."""
        with self._alone():
            offer = self.read().get(token)
            if offer is None:
                return Answer("unknown")
            if offer.fetched is not None:
                return Answer("gone", offer)
            if offer.expires < now:
                return Answer("expired", offer)
            self._add([{"event": "fetched", "node": offer.node, "token": token, "by": by}], now)
            return Answer("given", offer)

    def _offer(self, tokens: Mapping[str, str], *, now: datetime, hours: int) -> None:
        until = (now + timedelta(hours=hours)).isoformat(timespec="seconds")
        self._add(
            [
                {"event": "offered", "node": node, "token": token, "expires": until}
                for node, token in tokens.items()
            ],
            now,
        )

    def _alone(self) -> Any:
        return locked(self.path.with_suffix(".lock"))

    def _add(self, lines: list[dict[str, str]], now: datetime) -> None:
        if not lines:
            return
        when = now.isoformat(timespec="milliseconds")
        text = "".join(json.dumps({"time": when, **line}) + "\n" for line in lines)
        with storage_errors(self.path):
            make_dir(self.path.parent, mode=0o700)
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                # A line that was cut off while it was written counts for nothing.
                content = file.read()
                file.seek(file.truncate(content.rfind(b"\n") + 1))
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())

    def _new_lines(self) -> list[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._seen.size - len(self._seen.end))
                if file.read(len(self._seen.end)) != self._seen.end:
                    # Restored, or made anew.
                    self._known, self._seen = {}, _Seen()
                    file.seek(0)
                new = file.read()
        except FileNotFoundError:
            self._known, self._seen = {}, _Seen()
            return []
        whole = new[: new.rfind(b"\n") + 1]
        first, seen = self._seen.lines + 1, self._seen
        lines = [self._parse(raw, at) for at, raw in enumerate(whole.splitlines(), first)]
        end = (seen.end + whole)[-_END:]
        self._seen = _Seen(seen.size + len(whole), seen.lines + len(lines), end)
        return lines

    def _parse(self, raw: bytes, number: int) -> dict[str, Any]:
        try:
            return dict(json.loads(raw))
        except ValueError as error:
            raise KubekilnError(
                f"cannot make sense of a line of the journal: {error}",
                where=f"{self.path}:{number}",
                hint="restore it from a backup: without it, what was fetched is given again",
            ) from error


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
