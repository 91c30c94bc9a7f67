# SPDX-License-Identifier: Apache-2.0
"""Which verbs does the `kubekiln` command have? (Each group is one file beside this one.)"""

from __future__ import annotations

import typer

from kubekiln.cli import (
    addons,
    cluster,
    delivery,
    doctor,
    export,
    image,
    kubeconfig,
    lock,
    run,
    serve,
    tunnel,
)

app = typer.Typer(
    name="kubekiln",
    help="Bake a golden OS image, generate per-node user-data, boot straight into Kubernetes.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(image.app, name="image", help="Images: bake, list, inspect, load.")
app.add_typer(
    cluster.app,
    name="cluster",
    help="Clusters and their user-data: list, validate, render, explain, nodes, seed, tokens.",
)
app.add_typer(
    addons.app, name="addons", help="What is applied to a cluster: list, enable, disable."
)
app.add_typer(
    kubeconfig.app, name="kubeconfig", help="Your own kubectl's way into a cluster: merge, unmerge."
)
app.add_typer(
    export.app, name="export", help="Files for other tools: terraform, ansible, cluster-api."
)
app.add_typer(lock.app, name="lock", help="The pinned components: show, verify, update, mirror.")
for command in (
    *run.commands,
    *delivery.commands,
    *serve.commands,
    *tunnel.commands,
    *doctor.commands,
):
    app.command(
        name=command.name,
        context_settings=dict(command.context_settings),
        rich_help_panel=command.panel,
    )(command.function)
