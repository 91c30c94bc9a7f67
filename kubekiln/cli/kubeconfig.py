# SPDX-License-Identifier: Apache-2.0
"""`kubekiln kubeconfig …`: a cluster's context in your own kubeconfig."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kubekiln.paths import Project

app = typer.Typer(no_args_is_help=True)

Cluster = Annotated[
    str | None,
    typer.Argument(help="A cluster's name; not needed if there is one only.", metavar="[CLUSTER]"),
]


@app.command()
def merge(
    cluster: Cluster = None,
    use: Annotated[bool, typer.Option("--use", help="Make it the current context, too.")] = False,
) -> None:
    """Add a cluster's context to your kubeconfig ($KUBECONFIG's first file or ~/.kube/config)."""
    from kubekiln.paths import Project

    merge_and_say(Project.find(), cluster, use=use)


@app.command()
def unmerge(
    cluster: Annotated[str, typer.Argument(help="A cluster's name.")],
) -> None:
    """Take a cluster's context out of your kubeconfig; `down` does it as well."""
    from kubekiln.operations.clusters import cluster_name
    from kubekiln.operations.kubeconfig import unmerge as take_out
    from kubekiln.paths import Project

    project = Project.find()
    name = cluster_name(project, cluster)
    changed = take_out(project, name)
    for path in changed:
        typer.echo(f"context {name} is no longer in {path}")
    if not changed:
        typer.echo(f"{name} was not merged")


def merge_and_say(project: Project, cluster: str | None, *, use: bool) -> None:
    """Merge, and say what has changed and how to use it."""
    from kubekiln.operations.kubeconfig import merge as put_in

    merged = put_in(project, cluster, use=use)
    how = "merged into" if merged.has_changed else "is already in"
    typer.echo(f"context {merged.context} {how} {merged.path}")
    if merged.is_current:
        typer.echo("it is the current one: `kubectl get nodes`")
    else:
        typer.echo(f"`kubectl --context {merged.context} get nodes`, or `kubectl config "
                   f"use-context {merged.context}`")  # fmt: skip
