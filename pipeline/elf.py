# SPDX-License-Identifier: Apache-2.0
"""Is this file a Linux program for the architecture we want?"""

from __future__ import annotations

import struct
from pathlib import Path

from kubekiln.errors import IntegrityError

_MACHINES = {3: "386", 40: "arm", 62: "amd64", 183: "arm64", 21: "ppc64le", 22: "s390x",
             243: "riscv64"}  # fmt: skip
_HEADER_BYTES = 20
_CLASS_64 = 2
_KINDS = (2, 3)
"""ET_EXEC, and ET_DYN (position-independent programs)."""


def elf_architecture(path: Path) -> str | None:
    """Name the architecture of an ELF program; None if it isn't one."""
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or head[:4] != b"\x7fELF":
        return None
    order = "<" if head[5] == 1 else ">"
    kind, machine = struct.unpack(f"{order}HH", head[16:20])
    if kind not in _KINDS or (head[4] != _CLASS_64 and machine in (62, 183)):
        return None
    return _MACHINES.get(machine, f"machine {machine}")


def check_program(path: Path, *, name: str, architecture: str) -> None:
    """Raise IntegrityError unless `path` is a program for `architecture`."""
    found = elf_architecture(path)
    if found == architecture:
        return
    with path.open("rb") as stream:
        head = stream.read(64)
    what = f"a program for {found}" if found else f"not a program (starts with {head[:16]!r})"
    raise IntegrityError(
        f"{name} is {what}, wanted is one for {architecture}",
        hint="the pin or the server is wrong: `kubekiln lock verify` checks the pins",
    )
