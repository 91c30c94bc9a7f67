# SPDX-License-Identifier: Apache-2.0
"""`kubekiln cluster …`: a cluster's user-data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from kubekiln.cli import nodes, pools
from kubekiln.cli.table import print_table

if TYPE_CHECKING:
    from cloudinit.explain import Explanation
    from cloudinit.rendered import (
        RenderedCluster,
        RenderedNode,
        RenderedPayload,
        RenderedPool,
    )

_MOST_SHOWN = 20

app = typer.Typer(no_args_is_help=True)
app.command()(nodes.nodes)
app.command()(pools.seed)
app.command()(pools.tokens)

ClusterName = Annotated[
    str, typer.Argument(metavar="[CLUSTER]", help="A name under configs/clusters, or a path.")
]


@app.command("list")
def list_clusters() -> None:
    """List the clusters that have a config, and how many machines of each are there."""
    from rich.table import Table

    from cloudinit.families import joined
    from kubekiln.operations.clusters import known_clusters
    from kubekiln.paths import Project

    project = Project.find()
    table = Table(
        "CLUSTER", "NODES", "NETWORK", "API PORT", "MACHINES", "CONFIG", box=None, pad_edge=False
    )
    for known in known_clusters(project):
        made, path = known.cluster, str(known.path.relative_to(project.root))
        where = f"{path} (by up)" if known.is_profile else path
        shown = ["invalid", "", ""]
        if made is not None:
            networks = joined(made.network.node_cidrs)
            shown = [str(len(made.nodes)), networks, str(made.api.host_port)]
        table.add_row(known.name, *shown, str(known.machines or "–"), where)
    print_table(table)


@app.command()
def validate(cluster: ClusterName = "solo") -> None:
    """Check a cluster's configuration; writes nothing."""
    from kubekiln.operations.prepare import load
    from kubekiln.paths import Project

    checked = load(Project.find(), cluster).cluster
    if len(checked.payloads) <= _MOST_SHOWN:
        roles = ", ".join(f"{owner.name} ({owner.role})" for owner in checked.payloads)
    else:
        counts = Counter(owner.role for owner in checked.payloads)
        roles = ", ".join(f"{count:,} of role {role}" for role, count in counts.items())
    typer.echo(f"{checked.name}: Kubernetes {checked.kubernetes}, {roles}: fine")


@app.command()
def render(
    cluster: ClusterName = "solo",
    new_cluster: Annotated[
        bool,
        typer.Option("--new-cluster", help="Make new authorities although nodes were rendered."),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Processes that render; one a CPU if not given."),
    ] = None,
) -> None:
    """Write each node's user-data, meta-data, network-config and seed ISO."""
    from cloudinit.datasource import exposure
    from cloudinit.render import render_cluster
    from kubekiln.operations.prepare import load
    from kubekiln.paths import Project
    from kubekiln.progress import say

    project = Project.find()
    checked = load(project, cluster).cluster
    rendered = render_cluster(checked, project=project, new_cluster=new_cluster, workers=jobs)
    if len(rendered.nodes) <= _MOST_SHOWN:
        for node in rendered.nodes:
            _print_node(node)
    else:
        _print_roles(rendered.nodes)
    for pool in rendered.pools:
        _print_pool(pool)
    _print_state(rendered)
    if checked.userdata.protect != "none":
        typer.echo(
            f"keys to the user-data: {project.keys_dir / checked.name} (not for the platform)"
        )
    if note := exposure(checked):
        say(note)


@app.command()
def explain(
    node: Annotated[str, typer.Argument(help="A node's name.")],
    path: Annotated[str | None, typer.Argument(help="A path on the node.")] = None,
    cluster: Annotated[
        str, typer.Option(help="A name under configs/clusters, or a path.")
    ] = "solo",
) -> None:
    """Say of each file on a node which part and which config key it came from; writes nothing."""
    from cloudinit.explain import explain_node, find_file
    from cloudinit.rules import load_cluster
    from kubekiln.paths import Project

    project = Project.find()
    explanations = explain_node(load_cluster(cluster, project), node, project=project)
    if path is None:
        _print_table(explanations)
    else:
        _print_one(find_file(explanations, path))


def _print_node(node: RenderedNode) -> None:
    typer.echo(f"{node.name} ({node.role}) {node.address} {node.mac}")
    _print_sizes(node)


def _print_pool(pool: RenderedPool) -> None:
    expires = pool.token_expires.strftime("%Y-%m-%d %H:%M UTC")
    typer.echo(f"{pool.name} (pool) {pool.names} in {pool.addresses}, may join until {expires}")
    _print_sizes(pool)


def _print_sizes(payload: RenderedPayload) -> None:
    names = sorted(path.name for path in payload.directory.iterdir())
    files = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
    typer.echo(f"  {payload.directory}/{files}")
    typer.echo(f"  user-data {payload.size:,} B, gzip {payload.size_gzip:,} B; of the limit of:")
    for fit in payload.fits:
        channel = fit.channel
        if channel.size is None:
            continue
        share = f"{100 * fit.size / channel.size:.0f} %"
        verdict = "" if fit.is_within else "  does not fit"
        typer.echo(
            f"    {channel.title:<24} {fit.size:>7,} of {channel.size:>7,} B {share:>6}{verdict}"
        )


def _print_roles(nodes: tuple[RenderedNode, ...]) -> None:
    """Of thousands of nodes, say how many each role has, and show its largest."""
    for role in dict.fromkeys(node.role for node in nodes):
        of_role = [node for node in nodes if node.role == role]
        typer.echo(f"{len(of_role):,} of role {role}; the largest user-data is that of")
        _print_node(max(of_role, key=lambda node: node.size_gzip))


def _print_state(rendered: RenderedCluster) -> None:
    made = "new; keep it: it can't be made again" if rendered.created_state else "as before"
    typer.echo(f"state {rendered.state_directory} ({made})")
    typer.echo(f"certificates: {rendered.first_to_expire} ends first, in {rendered.days_left} days")
    typer.echo(f"export KUBECONFIG={rendered.admin_kubeconfig}")


def _print_table(explanations: tuple[Explanation, ...]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("path", "mode", "part", "from", "config keys"):
        table.add_column(title, overflow="fold")
    for title in ("size", "in gzip"):
        table.add_column(title, justify="right")
    for e in explanations:
        f = e.file
        keys = ", ".join(f.keys)
        table.add_row(f.path, f"{f.mode:04o}", f.part, f.source, keys, str(e.size), str(e.cost))
    print_table(table)
    typer.echo(f"{len(explanations)} files")


def _print_one(explanation: Explanation) -> None:
    file = explanation.file
    rows = {
        "path": file.path,
        "mode, owner": f"{file.mode:04o} {file.owner}",
        "part": f"cloudinit/parts/{file.part}.py" if file.part != "userdata" else "userdata.py",
        "from": file.source,
        "config keys": ", ".join(file.keys) or "none: the same on every node of the role",
        "size": f"{explanation.size} B; {explanation.cost} B of the compressed user-data",
        "sha256": file.sha256,
    }
    for title, value in rows.items():
        typer.echo(f"{title:<12} {value}")
