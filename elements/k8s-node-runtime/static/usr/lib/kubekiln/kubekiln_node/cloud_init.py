# SPDX-License-Identifier: Apache-2.0
"""Has cloud-init done its one turn on this machine, and what did it find wrong?"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from kubekiln_node.console import CONTAINER_MARK
from kubekiln_node.status import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

STATUS = "/run/cloud-init/status.json"
# cloud-init's own switch (its generator and units look at it).
OFF = "/etc/cloud/cloud-init.disabled"
OFF_TEXT = """\
Written by kubekiln-activate: this node has its role. A node is replaced, not configured anew: what
a lost, changed or foreign seed would do to it at a later boot is nothing.
"""
# It has done what it is for, and would stay in memory.
END = ("systemctl", "stop", "--no-block", "cloud-init-main.service")
MOST_QUOTED = 160


def has_had_its_turn(root: str = "") -> bool:
    """Tell whether an earlier boot, or this one, has switched cloud-init off."""
    return os.path.exists(root + OFF)


def switch_off(*, root: str, sync: Callable[[], None]) -> None:
    """Make what cloud-init wrote the node's own, for good.

    cloud-init leaves its files to the page cache. From here on they are the only copy, and without
    the mark a later boot would look for a seed that has been given back.
    """
    sync()
    write_atomic(root + OFF, OFF_TEXT, mode=0o644)
    sync()


def flush() -> None:
    """Have on the disk what was written so far: a power cut must not empty the node's files.

    In a container machine the page cache is its host's, and so is all that would be written.
    """
    if not os.path.exists(CONTAINER_MARK):
        os.sync()


def complaints(root: str) -> list[str]:
    """Quote what cloud-init itself found wrong; nothing if its turn was at an earlier boot."""
    if has_had_its_turn(root):
        return []
    try:
        with open(root + STATUS, encoding="utf-8") as stream:
            stages = json.load(stream)["v1"].values()
    except (OSError, ValueError, LookupError, AttributeError):
        return ["cloud-init left no status: it did not run"]
    found: list[str] = []
    for stage in stages:
        if not isinstance(stage, dict):
            continue
        found += stage.get("errors") or []
        by_level = stage.get("recoverable_errors") or {}
        for level in ("WARNING", "ERROR", "CRITICAL"):
            found += by_level.get(level) or []
    return list(dict.fromkeys(f"cloud-init: {_without_data(text)}" for text in found))


def _without_data(complaint: str) -> str:
    """Cut off what cloud-init quotes of the user-data: there may be a key in it."""
    first_line = complaint.partition("\n")[0]
    return first_line.partition(" userdata: 'b'")[0].partition(": {")[0][:MOST_QUOTED]
