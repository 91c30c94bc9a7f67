# SPDX-License-Identifier: Apache-2.0
"""Does this host have overlayfs? (It is a module, and listed only once something mounted one.)"""

from __future__ import annotations

from pathlib import Path

from kubekiln.process import Command, find_tool, run

_FILE_SYSTEMS = Path("/proc/filesystems")


def has_overlayfs() -> bool:
    """Tell whether overlayfs can be mounted; pipeline/targets/nspawn-machine.sh loads it."""
    if "overlay" in _FILE_SYSTEMS.read_text().split():
        return True
    modprobe = find_tool("modprobe")
    if modprobe is None:
        return False
    return run(Command([modprobe, "--dry-run", "overlay"]), check=False).returncode == 0
