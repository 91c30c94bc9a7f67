# SPDX-License-Identifier: Apache-2.0
"""How is the plan of `up --dry-run` shown?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cloudinit.families import joined
from kubekiln.cli.table import print_table

if TYPE_CHECKING:
    from pathlib import Path

    from kubekiln.operations.dryrun import UpPlan
    from kubekiln.paths import Project


def print_plan(plan: UpPlan, project: Project) -> None:
    """Print stages, machines and files."""
    from rich.table import Table

    cluster = plan.cluster
    typer.echo(
        f"{cluster.name}: Kubernetes {cluster.kubernetes}, target {plan.target}, API on "
        f"https://127.0.0.1:{cluster.api.host_port}; nothing is done (--dry-run)\n"
    )
    stages = Table(f"IMAGE {cluster.image}", "", "", box=None, pad_edge=False)
    for step in plan.steps:
        stages.add_row(step.title, "cached" if step.is_cached else "to do", step.detail)
    print_table(stages)
    typer.echo("")
    _print_machines(plan)
    typer.echo("")
    files = Table("WOULD BE WRITTEN", "", box=None, pad_edge=False)
    for file in plan.files:
        files.add_row(_short(file.path, project), file.why)
    print_table(files)


def _print_machines(plan: UpPlan) -> None:
    from rich.table import Table

    table = Table(
        "NODE", "ROLE", "ADDRESS", "CPUS", "MEMORY", "DISK", "MACHINE", box=None, pad_edge=False
    )
    for planned in plan.nodes:
        node = planned.node
        table.add_row(
            node.name, node.role, joined(node.addresses), str(node.cpus), f"{node.memory_mib} MiB",
            f"{node.disk_gib} GiB", planned.action,
        )  # fmt: skip
    print_table(table)


def _short(path: Path, project: Project) -> str:
    return str(path.relative_to(project.root) if path.is_relative_to(project.root) else path)
