# SPDX-License-Identifier: Apache-2.0
"""How does root's work of a bake leave nothing behind, whatever kills it?

It runs in a mount and process namespace of its own: when its first process ends, for whatever
reason, the kernel kills the rest and takes its mounts away, and what lay on its tmpfs with them.
That first process is killed when the lock of the stage is free, so when kubekiln itself is killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubekiln.process import Command

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


def available_memory() -> int:
    """Tell how many bytes of memory are free or easily freed."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
