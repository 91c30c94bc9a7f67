# SPDX-License-Identifier: Apache-2.0
"""Which machines may still fetch their user-data, and which have, when, and from where?

`state/<cluster>/serve.journal`: one JSON object a line, added under a lock and forced to disk
before anything is given out, so that whatever cuts a server off, nothing is given twice. A URL's
token is not in it, only its hash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from kubekiln.errors import KubekilnError
from kubekiln.files import locked, make_dir, storage_errors

NAME = "serve.journal"
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


class Offers:
    """The journal of one cluster; safe for several processes and threads."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME

    def read(self) -> dict[str, Offer]:
        """Give what is offered, by the hash of its token."""
        found: dict[str, Offer] = {}
        for line in self._lines():
            token = line["token"]
            if line["event"] == "offered":
                found[token] = Offer(line["node"], token, _time(line["expires"]))
            elif token in found:
                found[token] = replace(
                    found[token], fetched=_time(line["time"]), by=line.get("by", "")
                )
        return found

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

    def offer_again(self, nodes: Iterable[str], *, now: datetime, hours: int) -> None:
        """Offer what was offered last to these nodes once more; raises KubekilnError for others."""
        with self._alone():
            last = {offer.node: offer.token for offer in self.read().values()}
            unknown = sorted(set(nodes) - last.keys())
            if unknown:
                raise KubekilnError(
                    f"nothing was offered to {', '.join(unknown)}",
                    where=str(self.path),
                    hint="rendering its cluster does; there are: " + ", ".join(sorted(last)),
                )
            self._offer({node: last[node] for node in nodes}, now=now, hours=hours)

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

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            lines = self.path.read_text().split("\n")
        except FileNotFoundError:
            return
        for number, line in enumerate(lines[:-1], 1):
            try:
                yield dict(json.loads(line))
            except ValueError as error:
                raise KubekilnError(
                    f"cannot make sense of a line of the journal: {error}",
                    where=f"{self.path}:{number}",
                    hint="restore it from a backup: without it, what was fetched is given again",
                ) from error


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
