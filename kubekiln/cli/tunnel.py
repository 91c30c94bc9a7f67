# SPDX-License-Identifier: Apache-2.0
"""`kubekiln tunnel`: a service of the cluster on a port of this host."""

from __future__ import annotations

from typing import Annotated

import typer

from kubekiln.cli.verb import Verb


def tunnel(
    service: Annotated[str, typer.Argument(help="A Service, of whatever type.")],
    on: Annotated[
        str | None,
        typer.Option(help="The cluster; not needed if there is one only.", metavar="CLUSTER"),
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The Service's namespace.")
    ] = "default",
    port: Annotated[
        int | None,
        typer.Option(help="Port of 127.0.0.1; chosen if not given.", min=1, max=65535),
    ] = None,
) -> None:
    """Forward a Service to a port of this host until Ctrl-C, and print its URL."""
    from kubekiln.operations.tunnel import find_tunnel, keep_open
    from kubekiln.paths import Project
    from kubekiln.progress import say

    way = find_tunnel(
        Project.find(),
        service,
        cluster=on,
        namespace=namespace,
        local=port,
    )

    def opened() -> None:
        for forward in way.forwards:
            typer.echo(f"{forward.url}  →  {namespace}/{service}:{forward.port}")
        say("Ctrl-C ends it")

    try:
        keep_open(way, opened=opened, lost=lambda why: say(f"lost it, trying again: {why}"))
    except KeyboardInterrupt:
        # The way in which it is meant to end, as with kubectl port-forward: no failure.
        say("the tunnel is closed")


commands = (Verb("tunnel", tunnel),)
