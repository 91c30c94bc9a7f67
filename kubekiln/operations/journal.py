# SPDX-License-Identifier: Apache-2.0
"""What was begun on a platform, and what of it was finished?

`state/<cluster>/target-<target>.journal`: one JSON object a line, forced to disk before the
platform is asked, so that after a crash, a kill or Ctrl-C whoever goes on knows what may be there
although nobody heard the answer. What a platform has is known by its own lists; the journal says
what we wanted of it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from kubekiln.errors import KubekilnError
from kubekiln.files import make_dir, storage_errors

_LONGEST_LINE = 4096
Event = Literal["creating", "created", "refused", "deleting", "deleted"]


@dataclass(frozen=True)
class Entry:
    """One line."""

    event: Event
    node: str
    payload: str = ""
    instance: str = ""
    """The platform's id of the machine, where it is known."""


class Journal:
    """The journal of one cluster on one target; safe for threads, one process at a time writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(self, entry: Entry) -> None:
        """Add a line; it is on disk when this returns."""
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        fields = {key: value for key, value in vars(entry).items() if value}
        line = json.dumps({"time": when, **fields}) + "\n"
        with self._lock, storage_errors(self._path):
            make_dir(self._path.parent, mode=0o700)
            with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                _cut_to_whole_lines(file)
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())

    def last(self) -> dict[str, Entry]:
        """Give the last entry of each node, in the order in which they were first named."""
        found: dict[str, Entry] = {}
        for entry in self._entries():
            found[entry.node] = entry
        return found

    def unfinished(self) -> list[Entry]:
        """List what was begun and not heard of again."""
        return [entry for entry in self.last().values() if entry.event in ("creating", "deleting")]

    def forget(self) -> None:
        """Remove the journal: nothing of the cluster is there any more."""
        self._path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[Entry]:
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, 1):
            try:
                fields: dict[str, Any] = json.loads(line)
                fields.pop("time")
                yield Entry(**fields)
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):
                    return  # cut off while it was written: the platform wasn't asked yet
                raise KubekilnError(
                    f"cannot make sense of a line of the journal: {error}",
                    where=f"{self._path}:{number}",
                    hint="remove the line; what is on the platform is found by its tags",
                ) from error


def _cut_to_whole_lines(file: BinaryIO) -> None:
    """Go to the end, before a line that was cut off while it was written: it counts for nothing."""
    start = max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE)
    file.seek(start)
    file.truncate(file.seek(start + file.read().rfind(b"\n") + 1))
