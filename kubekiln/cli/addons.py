# SPDX-License-Identifier: Apache-2.0
"""`kubekiln addons …`: what is applied to a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kubekiln.cli.table import print_table

if TYPE_CHECKING:
    from kubekiln.operations.addons import Switched

app = typer.Typer(no_args_is_help=True)

On = Annotated[
    str | None,
    typer.Option("--on", help="The cluster; not needed if only one has machines.",
                 metavar="CLUSTER"),
]  # fmt: skip
Name = Annotated[str, typer.Argument(help="A name under configs/addons, or a path.")]


@app.command("list")
def list_all(on: On = None) -> None:
    """List the add-ons there are, and which of them a cluster has."""
    from rich.table import Table

    from kubekiln.operations.addons import list_addons
    from kubekiln.paths import Project

    cluster, addons = list_addons(Project.find(), on)
    table = Table("ADD-ON", f"IN {cluster}", "OBJECTS", box=None, pad_edge=False)
    for addon in addons:
        table.add_row(addon.name, "enabled" if addon.is_enabled else "–", addon.kinds)
    print_table(table)


@app.command()
def enable(addon: Name, on: On = None) -> None:
    """Apply an add-on to a cluster, now and whenever its machines are made."""
    from kubekiln.operations.addons import enable as switch_on
    from kubekiln.paths import Project

    _say(addon, switch_on(Project.find(), addon, on), "enabled", later="is applied")


@app.command()
def disable(addon: Name, on: On = None) -> None:
    """Delete an add-on's objects from a cluster, and apply it no more."""
    from kubekiln.operations.addons import disable as switch_off
    from kubekiln.paths import Project

    switched = switch_off(Project.find(), addon, on)
    _say(addon, switched, "disabled", later="is no longer applied")
    if switched.was_running:
        typer.echo(
            "a machine that was made with it applies it again when it reboots, until it is made "
            f"anew: `kubekiln down {switched.cluster}`, `kubekiln up {switched.cluster}`"
        )


def _say(addon: str, switched: Switched, how: str, *, later: str) -> None:
    if switched.said:
        typer.echo(switched.said)
    when = "now" if switched.was_running else "when its machines are made"
    typer.echo(f"{addon} is {how} in {switched.cluster}; it {later} {when}")
    if switched.to_write:
        typer.echo(f"to keep it so, write in {switched.config}:\n\n  {switched.to_write}\n")
