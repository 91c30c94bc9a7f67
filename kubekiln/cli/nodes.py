# SPDX-License-Identifier: Apache-2.0
"""`kubekiln cluster nodes`: the machines that a cluster's config lists, for masters that run."""

from __future__ import annotations

from typing import Annotated

import typer

from kubekiln.cli.table import print_table


def nodes(
    cluster: Annotated[str, typer.Argument(help="A name under configs/clusters, or a path.")],
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Tell the cluster of them, with the admin's kubeconfig."),
    ] = False,
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Print them as an object for a kubectl of yours.")
    ] = False,
) -> None:
    """List the declared nodes as masters know them; those that run are told of new ones so."""
    from rich.markup import escape
    from rich.table import Table

    from cloudinit.parts.approver import declared_nodes
    from cloudinit.rules import load_cluster
    from kubekiln.operations import nodes as operation
    from kubekiln.paths import Project

    project = Project.find()
    checked = load_cluster(cluster, project)
    if manifest:
        typer.echo(operation.manifest(checked))
        return
    table = Table("NODE", "ADDRESSES", box=None, pad_edge=False)
    for name, addresses in declared_nodes(checked).items():
        table.add_row(escape(name), ", ".join(addresses))
    print_table(table)
    if apply:
        typer.echo(operation.apply_nodes(project, checked))
