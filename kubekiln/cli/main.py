# SPDX-License-Identifier: Apache-2.0
"""Which verbs does the `kubekiln` command have? (Each group is one file beside this one.)"""

from __future__ import annotations

import typer

from kubekiln.cli import cluster, doctor, image, lock, run

app = typer.Typer(
    name="kubekiln",
    help="Bake a golden OS image, generate per-node user-data, boot straight into Kubernetes.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(image.app, name="image", help="The golden image: bake, list, inspect.")
app.add_typer(cluster.app, name="cluster", help="A cluster's user-data: validate, render, explain.")
app.add_typer(lock.app, name="lock", help="The pinned components: show, verify, update, mirror.")
for command in (*run.commands, *doctor.commands):
    app.command(
        name=command.name,
        context_settings=dict(command.context_settings),
        rich_help_panel=command.panel,
    )(command.function)
