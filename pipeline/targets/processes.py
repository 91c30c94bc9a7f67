# SPDX-License-Identifier: Apache-2.0
"""Which processes of this host belong to a machine, and how are they ended for good?

A process is found by what is on its command line (its program and the machine's own directory),
not by a remembered number: a number may have been given to somebody else's process since.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from kubekiln.errors import KubekilnError
from kubekiln.process import Command, run

_POLL_S = 0.05
# While a process is being replaced (execve), its command line can't be read for a moment.
_ABSENT_S = 0.5


def find_processes(program: str, argument: str) -> list[int]:
    """List processes that have `program` (by its last path part) and `argument` in their argv."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        argv = _argv(entry)
        if argument in argv and any(Path(word).name == program for word in argv):
            found.append(int(entry.name))
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """List all processes below `pid`, parents before their children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            children.setdefault(_parent(entry), []).append(int(entry.name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def program_of(pid: int) -> str:
    """Name the program a process runs; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def send(pids: Sequence[int], how: signal.Signals, *, as_root: bool) -> None:
    """Send a signal to processes that a search of this module has just found.

    One that is gone is fine; raises KubekilnError if nobody is allowed to send it.
    """
    if not pids:
        return
    words = ["kill", f"-{how.name.removeprefix('SIG')}", *map(str, pids)]
    result = run(Command(words, as_root=as_root), check=False)
    if result.returncode != 0 and result.stderr.startswith(b"sudo:"):
        raise KubekilnError(
            f"cannot end processes of root: {result.stderr.decode(errors='replace').strip()}",
            hint="run `sudo -v` first, or run as root",
        )


def wait_gone(program: str, argument: str, *, timeout_s: float) -> bool:
    """Wait until no such process is left; tells whether that came true in time."""
    deadline = time.monotonic() + timeout_s
    while find_processes(program, argument):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def kill_all(program: str, argument: str, *, as_root: bool, timeout_s: float = 20.0) -> None:
    """End every such process and all below it at once; return when they are really gone.

    Raises KubekilnError if one can't be ended.
    """
    found = find_processes(program, argument)
    # All of them are waited for: a dying process has no command line any more, but still its
    # control group and its files.
    everyone = {pid: _started(pid) for one in found for pid in (one, *descendants(one))}
    send(found, signal.SIGKILL, as_root=as_root)
    deadline = time.monotonic() + timeout_s
    while left := [pid for pid, since in everyone.items() if since and _started(pid) == since]:
        if time.monotonic() > deadline:
            raise KubekilnError(
                f"{program} does not end: process {', '.join(map(str, left))}",
                hint="it may wait for a disk or a network file system that doesn't answer",
            )
        time.sleep(_POLL_S)


def wait_for(condition: Path, program: str, argument: str, *, timeout_s: float) -> bool:
    """Wait until a file exists; False if the program ended before that, or time is over."""
    seen = time.monotonic()
    deadline = seen + timeout_s
    while not condition.exists():
        now = time.monotonic()
        if find_processes(program, argument):
            seen = now
        if now > deadline or now - seen > _ABSENT_S:
            return condition.exists()
        time.sleep(_POLL_S)
    return True


def _argv(entry: Path) -> list[str]:
    try:
        if (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX":
            return []
        return (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _started(pid: int) -> str:
    """When a process was started, which tells it from a later one of the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # proc(5): fields 3 and 22. Nobody but its parent can do anything about a zombie.
    return "" if fields[0] in "ZX" else fields[19]


def _parent(entry: Path) -> int:
    try:
        # proc(5): after the name in parentheses come the state and the parent's number.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
