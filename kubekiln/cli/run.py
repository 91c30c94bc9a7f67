# SPDX-License-Identifier: Apache-2.0
"""`kubekiln up`, `down`, `status`, `kubectl`: a cluster's machines and its API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kubekiln.cli.table import print_table
from kubekiln.cli.verb import Verb

if TYPE_CHECKING:
    from kubekiln.operations.profile import Profile
    from kubekiln.operations.up import Up
    from kubekiln.paths import Project

SomeCluster = Annotated[
    str | None, typer.Argument(help="A cluster's name; all if not given.", metavar="[CLUSTER]")
]
UpCluster = Annotated[
    str | None,
    typer.Argument(
        help="A name under configs/clusters, a path, or with options any new name; `solo`, or "
        "`local` with options, if not given.",
        metavar="[CLUSTER]",
    ),
]
DownCluster = Annotated[
    str | None,
    typer.Argument(
        help="A cluster's name; not needed if only one has machines.", metavar="[CLUSTER]"
    ),
]
Nodes = Annotated[
    int | None, typer.Option(help="Machines: 1, or a master and the rest workers.", min=1, max=200)
]
Cpus = Annotated[int | None, typer.Option(help="CPUs of each machine.", min=1, max=512)]
Memory = Annotated[int | None, typer.Option(help="Memory of each machine in MiB.", min=1024)]
Disk = Annotated[int | None, typer.Option(help="Disk of each machine in GiB.", min=4)]
TargetName = Annotated[
    str | None,
    typer.Option(
        help="Where the machines run: qemu, or nspawn (needs root); that of the cluster's "
        "machines, else qemu, if not given."
    ),
]
Elsewhere = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="Those on a platform of configs/targets; if not given, those on this host.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        help="Seconds until the cluster must be Ready; if not given, what the target thinks right: "
        "900, and more where machines are emulated.",
        min=1,
    ),
]
Keep = Annotated[
    bool, typer.Option("--keep", help="Leave the machines running if they don't get Ready.")
]
MergeKubeconfig = Annotated[
    bool, typer.Option("--merge-kubeconfig", help="Add the context to your own kubeconfig.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
All = Annotated[bool, typer.Option("--all", help="The machines of every cluster.")]
Forget = Annotated[
    bool,
    typer.Option(
        "--forget", help="Also remove config and keys of a cluster that `up` made of options."
    ),
]


def up(
    cluster: UpCluster = None,
    nodes: Nodes = None,
    cpus: Cpus = None,
    memory: Memory = None,
    disk: Disk = None,
    target: TargetName = None,
    timeout: Timeout = None,
    keep: Keep = False,
    merge_kubeconfig: MergeKubeconfig = False,
    dry_run: DryRun = False,
) -> None:
    """Bake, render, boot, wait until Ready, and say how to use kubectl."""
    from kubekiln.operations.clusters import config_named
    from kubekiln.operations.dryrun import check_up
    from kubekiln.operations.prepare import load
    from kubekiln.operations.profile import Shape, find_or_make, resolve
    from kubekiln.operations.up import bring_up, choose_target
    from kubekiln.paths import Project

    project, shape = Project.find(), Shape(nodes, cpus, memory, disk)
    profile = resolve(project, cluster, shape)
    target_name = choose_target(project, profile.cluster.name, target)
    if dry_run:
        _print_plan(project, profile, target_name, merge_kubeconfig)
        return
    if profile.text is not None:
        check_up(project, profile, target_name=target_name)
        profile = find_or_make(project, cluster, shape)
    plan = load(project, str(profile.path))
    result = bring_up(project, plan, target_name=target_name, timeout_s=timeout, keep=keep)
    _print_up(result, on=config_named(cluster, result.cluster))
    if merge_kubeconfig:
        from kubekiln.cli.kubeconfig import merge_and_say

        merge_and_say(project, result.cluster, use=False)


def _print_plan(project: Project, profile: Profile, target_name: str, merges: bool) -> None:
    from kubekiln.cli.dryrun import print_plan
    from kubekiln.operations.dryrun import plan_up

    plan = plan_up(project, profile, target_name=target_name, merges_kubeconfig=merges)
    print_plan(plan, project)


def _print_up(result: Up, *, on: str) -> None:
    from kubekiln.progress import clock

    typer.echo(
        f"{result.cluster} is Ready after {clock(result.seconds)}: {', '.join(result.nodes)}"
    )
    typer.echo("")
    typer.echo(f"  export KUBECONFIG={result.kubeconfig}")
    typer.echo("  kubectl get nodes")
    typer.echo("")
    typer.echo("or with the pinned kubectl, without setting anything:")
    typer.echo("")
    typer.echo(f"  {_program()} kubectl --on {on} get pods --all-namespaces")
    typer.echo("")
    typer.echo(f"`{_program()} down {result.cluster}` removes the machines.")


def _program() -> str:
    """Name this program so that the user's shell finds it: `make up` runs it out of .venv/bin."""
    import shlex
    import shutil
    import sys

    if shutil.which("kubekiln"):
        return "kubekiln"
    started = sys.argv[0]
    return "python -m kubekiln" if started.endswith("__main__.py") else shlex.quote(started)


def down(cluster: DownCluster = None, every: All = False, forget: Forget = False) -> None:
    """Stop the machines and remove them with their disks; image, user-data and state stay."""
    from kubekiln.errors import ConfigError
    from kubekiln.operations.clusters import cluster_name, which_cluster
    from kubekiln.operations.down import forget as forget_cluster
    from kubekiln.operations.down import forget_contexts, forgettable, take_down
    from kubekiln.paths import Project

    if every and (cluster or forget):
        raise ConfigError("--all goes with neither a cluster's name nor --forget")
    if forget and not cluster:
        raise ConfigError("--forget needs a cluster's name")
    project = Project.find()
    name = cluster_name(project, cluster) if cluster else None
    if forget and name:
        forgettable(project, name)
    if not every:
        name = which_cluster(project, name, usage="kubekiln down CLUSTER")
    removed = take_down(project, name) if every or name else []
    if not removed:
        typer.echo(f"no machines of {name}" if name else "no machines")
    if forget and name:
        forget_cluster(project, name)
        typer.echo(f"{name}: config, keys and rendered nodes are gone")
    # Last: nothing else is to wait for a kubeconfig that can't be changed.
    if every or name:
        forget_contexts(project, name)


def status(cluster: SomeCluster = None, target: Elsewhere = None) -> None:
    """Show which machines run, how far their boot is and where the API is."""
    from rich.table import Table

    from kubekiln.operations.clusters import cluster_name
    from kubekiln.operations.status import list_machines
    from kubekiln.paths import Project

    project = Project.find()
    name = cluster_name(project, cluster) if cluster else None
    if target is not None:
        from kubekiln.cli.delivery import print_status

        print_status(target, name)
        return
    lines = list_machines(project, name)
    if not lines:
        typer.echo(f"no machines of {name}" if name else "no machines")
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

    run_kubectl(Project.find(), on, context.args)


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
