# SPDX-License-Identifier: Apache-2.0
"""`kubekiln up`, `down`, `status`, `kubectl`: a cluster's machines and its API."""

from __future__ import annotations

from typing import Annotated

import typer

from kubekiln.cli.table import print_table
from kubekiln.cli.verb import Verb

ClusterArgument = Annotated[
    str, typer.Argument(help="A name under configs/clusters, or a path.", metavar="CLUSTER")
]
SomeCluster = Annotated[
    str | None, typer.Argument(help="A cluster's name; all if not given.", metavar="[CLUSTER]")
]


def up(
    cluster: ClusterArgument = "solo",
    target: Annotated[
        str, typer.Option(help="Where the machines run: qemu, or nspawn (needs root).")
    ] = "qemu",
    timeout: Annotated[
        float, typer.Option(help="Seconds until the cluster must be Ready.", min=1)
    ] = 900.0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the machines running if they don't get Ready.")
    ] = False,
) -> None:
    """Bake, render, boot, wait until Ready, and say how to use kubectl."""
    from kubekiln.operations.up import bring_up
    from kubekiln.paths import Project
    from kubekiln.progress import clock

    project = Project.find()
    result = bring_up(project, cluster, target_name=target, timeout_s=timeout, keep=keep)
    typer.echo(
        f"{result.cluster} is Ready after {clock(result.seconds)}: {', '.join(result.nodes)}"
    )
    typer.echo("")
    typer.echo(f"  export KUBECONFIG={result.kubeconfig}")
    typer.echo("  kubectl get nodes")
    typer.echo("")
    typer.echo("or with the pinned kubectl, without setting anything:")
    typer.echo("")
    typer.echo(f"  kubekiln kubectl --on {result.cluster} get pods --all-namespaces")
    typer.echo("")
    typer.echo(f"`kubekiln down {result.cluster}` removes the machines.")


def down(
    cluster: ClusterArgument = "solo",
    every: Annotated[bool, typer.Option("--all", help="The machines of every cluster.")] = False,
) -> None:
    """Stop the machines and remove them with their disks; image, user-data and state stay."""
    from kubekiln.operations.down import take_down
    from kubekiln.paths import Project

    removed = take_down(Project.find(), None if every else cluster_name(cluster))
    if not removed:
        typer.echo("no machines" if every else f"no machines of {cluster}")


def status(cluster: SomeCluster = None) -> None:
    """Show which machines run, how far their boot is and where the API is."""
    from rich.table import Table

    from kubekiln.operations.status import list_machines
    from kubekiln.paths import Project

    lines = list_machines(Project.find(), cluster_name(cluster) if cluster else None)
    if not lines:
        typer.echo(f"no machines of {cluster}" if cluster else "no machines")
        return
    table = Table("CLUSTER", "NODE", "STATE", "TARGET", "PID", "BOOT", "API", box=None)
    for line in lines:
        machine, state = line.record.machine, line.status
        pid = str(state.pid) if state.pid else "–"
        how = state.how or line.record.target
        table.add_row(
            machine.cluster, machine.name, state.state, how, pid, line.boot, line.api
        )  # fmt: skip
    print_table(table)


def kubectl(
    context: typer.Context,
    on: Annotated[
        str | None,
        typer.Option(help="The cluster; not needed if there is one only.", metavar="CLUSTER"),
    ] = None,
) -> None:
    """Run the pinned kubectl as the cluster's admin; everything after it is kubectl's own."""
    from kubekiln.operations.kubectl import run_kubectl
    from kubekiln.paths import Project

    run_kubectl(Project.find(), cluster_name(on) if on else None, context.args)


def cluster_name(given: str) -> str:
    """Take a cluster's name out of what may be the path of its config."""
    return given.rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")


_PASS_THROUGH = {
    "allow_extra_args": True,
    "allow_interspersed_args": False,
    "ignore_unknown_options": True,
    # kubectl's own --help, not ours.
    "help_option_names": [],
}

commands = (
    Verb("up", up),
    Verb("down", down),
    Verb("status", status),
    Verb("kubectl", kubectl, context_settings=_PASS_THROUGH),
)
