# SPDX-License-Identifier: Apache-2.0
"""How are a cluster's machines removed?"""

from __future__ import annotations

from kubekiln.paths import Project
from kubekiln.progress import step
from pipeline.targets.record import list_records
from pipeline.targets.registry import find_target


def take_down(project: Project, cluster: str | None) -> list[str]:
    """Stop and remove the machines of a cluster (of all, if none is named), with their disks.

    Image, user-data and state stay. Gives the names of what was removed.
    """
    removed = []
    for record in list_records(project.machines_dir, cluster):
        name = f"{record.machine.cluster}/{record.machine.name}"
        with step(f"Removing {name}"):
            find_target(record.target).destroy(record.machine)
        removed.append(name)
    return removed
