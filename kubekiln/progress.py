# SPDX-License-Identifier: Apache-2.0
"""How does long work show what it does, on a terminal and in a log alike?"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

_PLAIN_INTERVAL_S = 30.0


def is_plain() -> bool:
    """Tell whether to print plain lines: not a terminal, or under CI."""
    return not sys.stderr.isatty() or bool(os.environ.get("CI")) or os.environ.get("TERM") == "dumb"


def console() -> Console:
    """The console for everything that isn't a command's result (stderr)."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """Format a duration: `4.2 s`, `2 m 05 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} m {int(seconds % 60):02d} s"


class Board:
    """The steps that run now, several at once from several threads; one display for all."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._running: dict[int, tuple[str, float, str]] = {}
        self._live: Live | None = None
        self._next = 0

    def start(self, title: str) -> int:
        with self._lock:
            self._next += 1
            self._running[self._next] = (title, time.monotonic(), "")
            if is_plain():
                console().print(f"{title} …", markup=False)
            elif self._live is None:
                self._live = Live(get_renderable=self._table, console=console(), transient=True)
                self._live.start()
            return self._next

    def note(self, key: int, text: str) -> None:
        with self._lock:
            title, since, _ = self._running[key]
            self._running[key] = (title, since, text)

    def say(self, text: str) -> None:
        with self._lock:
            (self._live.console if self._live else console()).print(text, markup=False)

    def stop(self, key: int, *, how: str) -> None:
        with self._lock:
            title, since, _ = self._running.pop(key)
            self.say(f"{how} {title} ({clock(time.monotonic() - since)})")
            if not self._running and self._live is not None:
                self._live.stop()
                self._live = None

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        with self._lock:
            for title, since, note in self._running.values():
                table.add_row(Spinner("dots"), title, clock(time.monotonic() - since), note)
        return table


_BOARD = Board()


def say(text: str) -> None:
    """Print one line above whatever runs."""
    _BOARD.say(text)


def waits(why: str, check: Callable[[], None] = lambda: None) -> Callable[[], None]:
    """Give what to call while somebody else holds a lock: it says `why` once, and checks each time.

    `check` may raise, if the wait is to be given up.
    """
    said: list[str] = []

    def wait() -> None:
        check()
        if not said:
            said.append(why)
            say(f"{why}: waiting until that is done")

    return wait


@contextlib.contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Show `title` with its elapsed time while the block runs; yields a function to add a note.

    Without a terminal: a line at the start and one at the end, and a note at most every 30 s.
    """
    key = _BOARD.start(title)
    last = time.monotonic()

    def note(text: str) -> None:
        nonlocal last
        _BOARD.note(key, text)
        if is_plain() and time.monotonic() - last >= _PLAIN_INTERVAL_S:
            last = time.monotonic()
            say(f"{title}: {text}")

    try:
        yield note
    except BaseException:
        _BOARD.stop(key, how="✗")
        raise
    _BOARD.stop(key, how="✓")


@contextlib.contextmanager
def transfer(title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show bytes on their way; yields a function that takes how many came in addition."""
    done = 0
    with step(title) as note:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            share = f" of {total / 1e6:,.0f} MB, {100 * done // total} %" if total else " MB"
            note(f"{done / 1e6:,.0f}{share}")

        yield advance
