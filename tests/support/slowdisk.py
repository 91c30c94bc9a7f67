# SPDX-License-Identifier: Apache-2.0
"""How does a test make one machine's database wait for its disk?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubekiln.process import Command, find_tool, spawn
from tests.support.debs import unpack
from tests.support.fleet import Fleet
from tests.support.waiting import until


@contextmanager
def slow_syncs(made: Fleet, name: str, unit: str, *, by_ms: int, scratch: Path) -> Iterator[None]:
    """Hold up each write that a unit's process wants to be on the disk (strace(1), `inject`).

    The device mapper's `delay` would do it for a whole disk, where there is one; this does it
    for one process, anywhere.
    """
    pid = _pid_here(made, name, unit)
    program, env = _strace(scratch)
    log = scratch / "strace.log"
    log.touch()
    calls = "trace=fsync,fdatasync"
    inject = f"inject=fsync,fdatasync:delay_enter={by_ms * 1000}"
    words = [program, "--follow-forks", f"--attach={pid}", "-e", calls, "-e", inject]
    tracer = spawn(Command([*words, f"--output={log}"], env=env))
    try:
        until(lambda: "sync(" in log.read_text(), what="a slow write", timeout_s=60)
        yield
    finally:
        tracer.terminate()
        tracer.wait(30)


def _pid_here(made: Fleet, name: str, unit: str) -> int:
    """Find a machine's process among this host's."""
    inner, space = made.main_pid(name, unit), Path(f"/proc/{made.pid(name)}/ns/pid").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns/pid").readlink() != space:
                continue
            lines = (process / "status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        if f"{inner}" in next(line for line in lines if line.startswith("NSpid")).split()[-1:]:
            return int(process.name)
    raise AssertionError(f"{unit} doesn't run on {name}")


def _strace(scratch: Path) -> tuple[Path, dict[str, str]]:
    found = find_tool("strace")
    if found:
        return Path(found), {}
    root = unpack(["strace", "libunwind8"], scratch)
    libraries = ":".join(str(path) for path in (root / "usr/lib").iterdir() if path.is_dir())
    return root / "usr/bin/strace", {"LD_LIBRARY_PATH": libraries}
