# SPDX-License-Identifier: Apache-2.0
"""How does a cluster's configuration become what its machines boot from?

Everything is rendered and checked in memory first; then the state is written, then the nodes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cloudinit import hostkubeconfig
from cloudinit.check import check_userdata
from cloudinit.datasource import Fit, measure_all
from cloudinit.model import Cluster, Node
from cloudinit.networkconfig import render_networkconfig
from cloudinit.part import Context, NodeFile
from cloudinit.roles import compose
from cloudinit.seed import build_iso
from cloudinit.state import State
from cloudinit.userdata import compress, node_files, render_metadata, render_userdata
from cloudinit.versions import component_versions
from kubekiln.errors import ConfigError
from kubekiln.files import locked, make_dir, write_atomic
from kubekiln.paths import Project


@dataclass(frozen=True)
class RenderedNode:
    """One machine's payload, on disk."""

    name: str
    role: str
    directory: Path
    user_data: Path
    meta_data: Path
    network_config: Path
    seed_iso: Path
    mac: str
    address: str
    """Without prefix length."""
    size: int
    """Of the user-data, uncompressed, in bytes."""
    size_gzip: int
    fits: tuple[Fit, ...]


@dataclass(frozen=True)
class RenderedCluster:
    """All machines of a cluster, and the way into it."""

    nodes: tuple[RenderedNode, ...]
    admin_kubeconfig: Path
    state_directory: Path
    created_state: bool
    first_to_expire: str
    days_left: int


@dataclass(frozen=True)
class Payload:
    """One machine's payload, in memory."""

    context: Context
    files: tuple[NodeFile, ...]
    seed: dict[str, bytes] = field(repr=False)


def render_cluster(
    cluster: Cluster, *, project: Project, now: datetime | None = None, new_cluster: bool = False
) -> RenderedCluster:
    """Render every node into build/nodes/<cluster>/, and keep secrets in state/<cluster>/.

    Rendering again from the same configuration gives the same bytes. Raises ConfigError if the
    state is gone while nodes rendered from it are there, unless a `new_cluster` is asked for.
    """
    directory = project.state_dir / cluster.name
    make_dir(project.state_dir, mode=0o700)
    with locked(project.state_dir / f".{cluster.name}.lock"):
        state = State.open(
            directory, cluster=cluster.name, config=cluster.pki, now=now or datetime.now(UTC)
        )
        if new_cluster:
            _refuse_replacement(state)
        elif state.is_new:
            _refuse_orphans(cluster, project)
        created = state.is_new
        payloads = render_payloads(cluster, state=state, project=project)
        kubeconfig = hostkubeconfig.render(cluster, state)
        state.commit()
        write_atomic(directory / hostkubeconfig.NAME, kubeconfig.reveal(), mode=0o600)
        nodes = tuple(_write(payload, cluster, project) for payload in payloads)
        _remove_others(cluster, project)
        name, days = state.days_left()
    return RenderedCluster(nodes, directory / hostkubeconfig.NAME, directory, created, name, days)


def render_payloads(cluster: Cluster, *, state: State, project: Project) -> tuple[Payload, ...]:
    """Render and check every node in memory."""
    return tuple(render_payload(cluster, node, state, project) for node in cluster.nodes)


def render_payload(cluster: Cluster, node: Node, state: State, project: Project) -> Payload:
    """Render and check one node in memory."""
    versions = component_versions(cluster, project)
    context = Context(cluster, node, state, project, versions)
    files = node_files(context, compose(context))
    userdata = render_userdata(context, files)
    check_userdata(cluster, files, userdata)
    seed = {
        "meta-data": render_metadata(context, userdata),
        "network-config": render_networkconfig(context),
        "user-data": userdata,
    }
    return Payload(context, files, seed)


def _write(payload: Payload, cluster: Cluster, project: Project) -> RenderedNode:
    node = payload.context.node
    directory = project.nodes_dir / cluster.name / node.name
    make_dir(directory.parent, mode=0o700)
    make_dir(directory, mode=0o700)
    for name, content in payload.seed.items():
        write_atomic(directory / name, content, mode=0o600)
    write_atomic(directory / "seed.iso", build_iso(payload.seed), mode=0o600)
    compressed = compress(payload.seed["user-data"])
    return RenderedNode(
        name=node.name,
        role=node.role,
        directory=directory,
        user_data=directory / "user-data",
        meta_data=directory / "meta-data",
        network_config=directory / "network-config",
        seed_iso=directory / "seed.iso",
        mac=cluster.mac_of(node),
        address=str(node.address),
        size=len(payload.seed["user-data"]),
        size_gzip=len(compressed),
        fits=measure_all(compressed),
    )


def _remove_others(cluster: Cluster, project: Project) -> None:
    """Remove the payloads of nodes that the cluster no longer has: there are keys in them."""
    names = {node.name for node in cluster.nodes}
    for directory in (project.nodes_dir / cluster.name).iterdir():
        if directory.is_dir() and directory.name not in names:
            shutil.rmtree(directory)


def _refuse_replacement(state: State) -> None:
    if not state.is_new:
        raise ConfigError(
            f"cluster {state.cluster} has a state already",
            where=str(state.directory),
            hint="move it away first if its nodes are gone; without --new-cluster it is used",
        )


def _refuse_orphans(cluster: Cluster, project: Project) -> None:
    rendered = project.nodes_dir / cluster.name
    if rendered.is_dir() and any(rendered.iterdir()):
        raise ConfigError(
            f"the state of cluster {cluster.name} is missing, but its nodes were rendered before",
            where=str(project.state_dir / cluster.name),
            hint="restore it from a backup; or --new-cluster makes new authorities, which no node "
            "rendered before will trust",
        )
