# SPDX-License-Identifier: Apache-2.0
"""How does a cluster's configuration become what its machines boot from?

Each node is rendered, checked and put aside; when all are there the state is written, then they
take their places. Whatever interrupts it leaves the state, and each node, as it was or is to be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cloudinit import hostkubeconfig, pool
from cloudinit.check import check_userdata
from cloudinit.families import joined
from cloudinit.model import Cluster, Node
from cloudinit.networkconfig import render_networkconfig
from cloudinit.nodepool import NodePool
from cloudinit.offers import Offers
from cloudinit.part import Context, NodeFile
from cloudinit.pool import Chunk, Size
from cloudinit.protect import REST, prepare, protect, token_of
from cloudinit.rendered import RenderedCluster, RenderedNode, RenderedPool
from cloudinit.roles import compose
from cloudinit.seed import build_iso
from cloudinit.staging import is_current, publish, rendering, staged, write_node
from cloudinit.state import State
from cloudinit.userdata import node_files, render_metadata, render_userdata
from cloudinit.versions import component_versions
from kubekiln.channel import CHANNELS
from kubekiln.errors import ConfigError
from kubekiln.files import sha256_bytes, sha256_file
from kubekiln.paths import Project
from kubekiln.progress import say, step


@dataclass(frozen=True)
class Payload:
    """One machine's payload, in memory."""

    context: Context
    files: tuple[NodeFile, ...]
    seed: dict[str, bytes] = field(repr=False)
    """What the platform is given."""
    keys: Mapping[str, bytes] = field(repr=False)
    """What the machine gets another way, where user-data is protected."""
    size_gzip: int


def render_cluster(
    cluster: Cluster,
    *,
    project: Project,
    now: datetime | None = None,
    new_cluster: bool = False,
    new_tokens: Collection[str] = (),
    workers: int | None = None,
) -> RenderedCluster:
    """Render every node into build/nodes/<cluster>/, and keep secrets in state/<cluster>/.

    Rendering again from the same configuration gives the same bytes, by however many `workers`
    (all CPUs if not given), but for pools that are to get `new_tokens`. Raises ConfigError if the
    state is gone while nodes rendered from it are there, unless a `new_cluster` is asked for.
    """
    directory, final_dir = project.state_dir / cluster.name, project.nodes_dir / cluster.name
    with rendering(project, cluster.name):
        state = open_state(cluster, project, now=now)
        _refuse(cluster, state, project, new_cluster=new_cluster)
        created = state.is_new
        versions = component_versions(cluster, project)
        _complete(cluster, state, new_tokens)
        kubeconfig = hostkubeconfig.render(cluster, state)
        with staged(final_dir) as nodes_dir, staged_keys(cluster, project) as keys_dir:
            job = _Job(cluster, state, project, versions, nodes_dir, keys_dir)
            sizes = _render_nodes(job, workers)
            state.commit()
            admin = hostkubeconfig.write(directory, kubeconfig)
            job.publish()
        offer_all(cluster, project, state)
        nodes, pools = _rendered(job, sizes)
        name, days = state.days_left()
    return RenderedCluster(nodes, pools, admin, directory, created, name, days)


def _complete(cluster: Cluster, state: State, new_tokens: Collection[str]) -> None:
    """Make what all machines share, and say what is to be known of it."""
    for pool_name in new_tokens:
        state.drop_token(pool_name)
    prepare(cluster, state)
    state.complete(cluster.pools)
    for note in state.notes():
        say(note)


def check_state(cluster: Cluster, project: Project) -> None:
    """Raise what rendering would because of the cluster's state; writes nothing."""
    state = open_state(cluster, project)
    state.check()
    if state.is_new:
        _refuse_orphans(cluster, project)


def open_state(cluster: Cluster, project: Project, *, now: datetime | None = None) -> State:
    """Open the cluster's state, as its configuration says how; writes nothing."""
    return State.open(
        project.state_dir / cluster.name,
        cluster=cluster.name,
        config=cluster.pki,
        now=now or datetime.now(UTC),
        encryption=cluster.state.encryption,
    )


def render_payloads(cluster: Cluster, *, state: State, project: Project) -> tuple[Payload, ...]:
    """Render and check everything in memory."""
    versions = component_versions(cluster, project)
    return tuple(render_payload(cluster, o, state, project, versions) for o in cluster.payloads)


def render_payload(
    cluster: Cluster,
    owner: Node | NodePool,
    state: State,
    project: Project,
    versions: Mapping[str, str],
) -> Payload:
    """Render and check one node, or one pool, in memory."""
    context = Context(cluster, owner, state, project, versions)
    files = node_files(context, compose(context))
    userdata = render_userdata(context, files)
    divided = protect(context, files, userdata)
    size_gzip = check_userdata(context, files, userdata, divided.userdata)
    seed = {"user-data": divided.userdata}
    if isinstance(owner, Node):
        seed["meta-data"] = render_metadata(cluster.name, owner.name, userdata)
        seed["network-config"] = render_networkconfig(context)
    return Payload(context, files, seed, divided.keys, size_gzip)


@dataclass(frozen=True)
class _Job:
    """All that it takes to render any node of a cluster."""

    cluster: Cluster
    state: State
    project: Project
    versions: Mapping[str, str]
    new_nodes_dir: Path
    new_keys_dir: Path | None
    """None where no machine has or had such files."""

    @property
    def nodes_dir(self) -> Path:
        return self.project.nodes_dir / self.cluster.name

    @property
    def keys_dir(self) -> Path:
        return self.project.keys_dir / self.cluster.name

    def publish(self) -> None:
        """Put everything in its place; keys first, since without them the rest is of no use."""
        owners = {owner.name for owner in self.cluster.payloads}
        if self.new_keys_dir is not None:
            protects = self.cluster.userdata.protect != "none"
            publish(self.new_keys_dir, self.keys_dir, keep=owners if protects else ())
        publish(self.new_nodes_dir, self.nodes_dir, keep=owners)

    def render(self, indexes: range) -> Chunk:
        """Render some nodes and put them aside."""
        sizes = tuple(self._render_one(self.cluster.payloads[index]) for index in indexes)
        return Chunk(sizes, self.state.take_new_leaves(), self.state.first_end)

    def _render_one(self, owner: Node | NodePool) -> Size:
        payload = render_payload(self.cluster, owner, self.state, self.project, self.versions)
        channel = CHANNELS[self.cluster.datasource]
        files = payload.seed | channel.attach(payload.seed)
        if isinstance(owner, Node):
            files["seed.iso"] = build_iso(payload.seed)
        if not is_current(self.nodes_dir / owner.name, files):
            write_node(self.new_nodes_dir / owner.name, files)
        is_new = payload.keys and not is_current(self.keys_dir / owner.name, payload.keys)
        if is_new and self.new_keys_dir is not None:
            write_node(self.new_keys_dir / owner.name, payload.keys)
        return Size(len(payload.seed["user-data"]), payload.size_gzip)


def _render_nodes(job: _Job, workers: int | None) -> list[Size]:
    """Render every node and show how far it is; the state then knows what was issued."""
    count, state = len(job.cluster.payloads), job.state
    sizes: list[Size] = []
    with (
        pool.rendering(count, job.render, workers=workers or pool.default_workers(count)) as chunks,
        step(f"Rendering cluster {job.cluster.name}") as note,
    ):
        for chunk in chunks:
            sizes += chunk.sizes
            state.adopt(chunk.new_leaves)
            state.note_end(chunk.first_end)
            note(f"{len(sizes)} of {count} nodes")
    return sizes


def _rendered(
    job: _Job, sizes: list[Size]
) -> tuple[tuple[RenderedNode, ...], tuple[RenderedPool, ...]]:
    cluster, count = job.cluster, len(job.cluster.nodes)
    nodes = tuple(
        RenderedNode(
            name=node.name,
            role=node.role,
            directory=job.nodes_dir / node.name,
            mac=cluster.mac_of(node),
            address=joined(node.addresses),
            size=size.plain,
            size_gzip=size.gzip,
        )
        for node, size in zip(cluster.nodes, sizes[:count], strict=True)
    )
    pools = tuple(
        RenderedPool(
            name=pool.name,
            role=pool.role,
            directory=job.nodes_dir / pool.name,
            names=f"{pool.name_prefix}*",
            addresses=str(pool.addresses),
            token_expires=job.state.token(pool.name, hours=pool.token_ttl_hours).expires,
            size=size.plain,
            size_gzip=size.gzip,
        )
        for pool, size in zip(cluster.pools, sizes[count:], strict=True)
    )
    return nodes, pools


def staged_keys(
    cluster: Cluster, project: Project
) -> contextlib.AbstractContextManager[Path | None]:
    """Stage what machines get another way; nothing where none of them does, or did."""
    place = project.keys_dir / cluster.name
    if cluster.userdata.protect == "none" and not place.exists():
        return contextlib.nullcontext()
    return staged(place)


def offer_all(cluster: Cluster, project: Project, state: State) -> None:
    """Let nodes fetch what was rendered for them, once, where they are to."""
    if cluster.userdata.protect != "url":
        return
    tokens = {}
    for node in cluster.nodes:
        rest = project.keys_dir / cluster.name / node.name / REST
        token = token_of(state, node.name, sha256_file(rest))
        tokens[node.name] = sha256_bytes(token.reveal())
    Offers(state.directory).offer(tokens, now=state.now, hours=cluster.userdata.server_hours)


def _refuse(cluster: Cluster, state: State, project: Project, *, new_cluster: bool) -> None:
    if state.is_new and not new_cluster:
        _refuse_orphans(cluster, project)
    if new_cluster and not state.is_new:
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
