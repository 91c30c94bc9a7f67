# SPDX-License-Identifier: Apache-2.0
"""How does root's work of a bake leave nothing behind, whatever kills it?

It runs in a mount and process namespace of its own: when its first process ends, for whatever
reason, the kernel kills the rest and takes its mounts away, and what lay on its tmpfs with them.
That first process is killed when the lock of the stage is free, so when kubekiln itself is killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubekiln.process import Command

_CGROUP = Path("/sys/fs/cgroup")
_SCRIPT = Path(__file__).with_name("sandbox.sh")
_GIB = 1 << 30
# Left to everything else on the host.
_RESERVE_GIB = 1


@dataclass(frozen=True)
class Sandbox:
    """Where the work happens: a directory in memory if there is enough, and the lock to live by."""

    lock: Path
    memory_dir: Path
    memory_gib: int

    def command(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str], log: Path, what_for: str
    ) -> Command:
        """Wrap a command that needs root."""
        fits = available_memory() >= (self.memory_gib + _RESERVE_GIB) * _GIB
        size = f"{self.memory_gib}g" if fits else "0"
        return Command(
            [_SCRIPT, self.lock, size, self.memory_dir, *argv],
            as_root=True, env=env, log=log, what_for=what_for,
        )  # fmt: skip


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Tell how many bytes of memory are free or easily freed, of the host and of our container."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
            return min([free, *_left_by_limits(cgroup)])
    return 0


def _left_by_limits(cgroup: Path) -> Iterator[int]:
    """Read what a container's own memory limit leaves (cgroups(7): version 2, version 1)."""
    for limit, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        if not (cgroup / used).is_file() or (cgroup / limit).read_text().strip() == "max":
            continue
        stat = (cgroup / used).with_name("memory.stat").read_text().split()
        cache = int(stat[stat.index(reclaimable) + 1])
        yield max(0, int((cgroup / limit).read_text()) - int((cgroup / used).read_text()) + cache)


def gib_for(tree_bytes: int, *, least: int) -> int:
    """Size a tmpfs for a tree that is as large as its tar, and what is done to it there."""
    return max(least, -(-tree_bytes * 13 // 10 // _GIB))
