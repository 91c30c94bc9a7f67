# SPDX-License-Identifier: Apache-2.0
"""`kubekiln upload`, `boot`, `console`, `forget`, `destroy`: images and machines on any target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kubekiln.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kubekiln.operations.destination import Destination
    from pipeline.targets.platform import Instance

Target = Annotated[
    str,
    typer.Option(
        "--target", help="qemu, nspawn, a name under configs/targets, or a path.", metavar="NAME"
    ),
]
OfCluster = Annotated[
    str, typer.Option("--cluster", help="A name under configs/clusters, or a path.")
]
Nodes = Annotated[
    list[str] | None, typer.Argument(help="Some of its nodes; all if not given.", metavar="[NODE…]")
]
_PANEL = "Deliver to a platform"


def upload(target: Target, cluster: OfCluster = "solo") -> None:
    """Bake the cluster's image, write it in the platform's format and bring it there, once."""
    typer.echo(_destination(target).upload(cluster))


def boot(target: Target, nodes: Nodes = None, cluster: OfCluster = "solo") -> None:
    """Make the cluster's machines from the uploaded image, with their user-data attached."""
    for instance in _destination(target).boot(cluster, nodes or ()):
        typer.echo(f"{instance.node} {instance.id} {instance.state}")


def console(target: Target, node: Annotated[str, typer.Argument(help="A node's name.")],
            cluster: OfCluster = "solo") -> None:  # fmt: skip
    """Print what a machine wrote to its serial console."""
    typer.echo(_console(_destination(target), _name(cluster), node))


def _console(to: Destination, cluster: str, node: str) -> str:
    from kubekiln.errors import ConfigError

    found = next((i for i in to.instances(cluster) if i.node == node), None)
    if found is None:
        raise ConfigError(f"target {to.name} has no machine {node} of {cluster}")
    text = to.console(found)
    if text is None:
        raise ConfigError(f"target {to.name} keeps no console of its machines")
    return text


def print_status(target: str, cluster: str | None) -> None:
    """Show a target's machines and how far their boot is, as far as it keeps their consoles."""
    from rich.table import Table

    from kubekiln.cli.table import print_table
    from kubekiln.operations.status import boot_of
    from pipeline.targets.console import parse_console

    to = _destination(target)
    found = to.instances(cluster)
    if not found:
        typer.echo(f"no machines of {cluster or 'ours'} on target {to.name}")
        return
    table = Table("CLUSTER", "NODE", "STATE", "ID", "ADDRESSES", "BOOT", box=None)
    for one in sorted(found, key=lambda instance: (instance.cluster, instance.node)):
        text = _console_if_readable(to, one)
        boot = one.detail if text is None else boot_of(parse_console(text))
        addresses = ", ".join(one.addresses) or "–"
        table.add_row(one.cluster, one.node, one.state, one.id, addresses, boot or "–")
    print_table(table)


def _console_if_readable(to: Destination, instance: Instance) -> str | None:
    """Give a machine's console; None if there is none, and if it can't be read, which is said."""
    from kubekiln.errors import KubekilnError
    from kubekiln.progress import say

    try:
        return to.console(instance)
    except KubekilnError as error:
        name = f"{instance.cluster}-{instance.node}"
        say(f"{name}: its console can't be read: {error.problems[0].what}")
        return None


def forget(target: Target, nodes: Nodes = None, cluster: OfCluster = "solo") -> None:
    """Have the platform remove the user-data of machines that have their role: seed, guestinfo."""
    name = _name(cluster)
    forgotten = _destination(target).forget(name, nodes or ())
    _say_of_each(forgotten, f": its user-data is gone from target {target}", cluster=name)


def destroy(target: Target, nodes: Nodes = None, cluster: OfCluster = "solo") -> None:
    """Remove the cluster's machines (or some) with their disks; image and state stay."""
    name = _name(cluster)
    _say_of_each(_destination(target).destroy(name, nodes or ()), " is gone", cluster=name)


def _say_of_each(nodes: Sequence[str], said: str, *, cluster: str) -> None:
    if not nodes:
        typer.echo(f"no machines of {cluster}")
    for node in nodes:
        typer.echo(f"{node}{said}")


def _name(cluster: str) -> str:
    from kubekiln.operations.clusters import cluster_name
    from kubekiln.paths import Project

    return cluster_name(Project.find(), cluster)


def _destination(target: str) -> Destination:
    from kubekiln.operations.destination import find_destination
    from kubekiln.paths import Project

    return find_destination(Project.find(), target)


commands = (
    Verb("upload", upload, panel=_PANEL),
    Verb("boot", boot, panel=_PANEL),
    Verb("console", console, panel=_PANEL),
    Verb("forget", forget, panel=_PANEL),
    Verb("destroy", destroy, panel=_PANEL),
)
