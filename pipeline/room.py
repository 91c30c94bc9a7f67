# SPDX-License-Identifier: Apache-2.0
"""How much room does a work of ours need, and how is it said that there is less?

Every number is here, so that preflight asks for what the stages ask for later.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from kubekiln.errors import Problem, StorageError
from kubekiln.files import existing

_GIB = 1 << 30
BAKE_BYTES = 10 * _GIB
"""Layers, disk and work space of one bake, measured 4.5 GB, and what is kept of earlier ones."""
PUBLISH_BYTES = _GIB
"""The published image, measured 0.4 GB, and its records."""
COMPILE_BYTES = 8_000_000_000
"""Build cache and outputs of Kubernetes, the largest component: 4 GB, and as much to be sure."""
COMPILERS_BYTES = 1_500_000_000
"""Both compilers, packed and unpacked."""
MODULES_BYTES = 4_500_000_000
"""Go's modules of all components, packed and unpacked."""
ROOT_BYTES = 3_000_000_000
"""The unpacked root of a Debian 13 node, with room to spare."""


def lack_of_room(path: Path, needed: int, *, what_for: str) -> Problem | None:
    """Say that the disk of a path, which need not be there yet, has less room than is needed."""
    free = shutil.disk_usage(existing(path)).free
    if free >= needed:
        return None
    return Problem(
        f"{free / 1e9:.1f} GB are free for {path}, {what_for} needs {needed / 1e9:.1f} GB",
        hint="free some disk space, or point XDG_CACHE_HOME at a larger disk",
    )


def check_room(path: Path, needed: int, *, what_for: str) -> None:
    """Raise StorageError (exit code 2) unless the disk of a path has room."""
    problem = lack_of_room(path, needed, what_for=what_for)
    if problem:
        raise StorageError.of([problem])
