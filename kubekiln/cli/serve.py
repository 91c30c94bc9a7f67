# SPDX-License-Identifier: Apache-2.0
"""`kubekiln serve`: nodes fetch their user-data from here, each once."""

from __future__ import annotations

from typing import Annotated

import typer

from kubekiln.cli.verb import Verb

OfCluster = Annotated[
    str, typer.Argument(metavar="[CLUSTER]", help="A name under configs/clusters, or a path.")
]
Listen = Annotated[
    str | None,
    typer.Option(
        help="Where to listen; all addresses, with the port of userdata.server, if not given.",
        metavar="ADDRESS:PORT",
    ),
]
Again = Annotated[
    list[str] | None,
    typer.Option(
        help="Only let this node fetch once more; a server that runs needs no restart.",
        metavar="NODE",
    ),
]


def serve(cluster: OfCluster = "solo", listen: Listen = None, again: Again = None) -> None:
    """Give each node its user-data, once, until Ctrl-C (`userdata.protect: url`)."""
    from cloudinit.rules import load_cluster
    from kubekiln.operations.serve import Store, UserDataServer, fingerprint, listen_address
    from kubekiln.paths import Project
    from kubekiln.progress import say

    project = Project.find()
    store = Store(load_cluster(cluster, project), project)
    if again:
        store.offer_again(again)
        hours = store.cluster.userdata.server_hours
        typer.echo(f"{', '.join(again)} may fetch once more, for {hours} hours")
        return
    host, port = listen_address(store.cluster, listen)
    with UserDataServer(store, host, port, log=typer.echo) as server:
        counts = ", ".join(f"{len(offers)} {kind}" for kind, offers in store.waiting().items())
        typer.echo(f"{store.cluster.name} at {store.cluster.userdata.server}: {counts}")
        typer.echo(f"authority sha256 {fingerprint(store.state)}")
        say(f"listening on {host} port {server.server_address[1]}; Ctrl-C ends it")
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            # The way in which it is meant to end; what was begun is answered first.
            say("closed; whoever had not fetched may do so when it is opened again")


commands = (Verb("serve", serve, panel="Deliver to a platform"),)
