# SPDX-License-Identifier: Apache-2.0
"""Who says yes to a kubelet's serving certificate? (Part: the approver and the nodes it knows.)"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from cloudinit.credentials import identity
from cloudinit.model import Cluster, Node
from cloudinit.nodepool import NodePool
from cloudinit.part import Context, NodeFile, Part, unit

CONFIG_PATH = "/etc/kubekiln/csr-approver.json"
# Fewer are listed one by one, which reads better.
_SHORTEST_RUN = 16
_NUMBERED = re.compile(r"(.*?)(\d+)")


def render(context: Context) -> Part:
    """Give the approver; it compares a request's names and addresses with those rendered here.

    The controller manager approves none of them by design: only whoever knows the nodes can.
    """
    cluster = context.cluster
    document: dict[str, Any] = {
        "kubeconfig": "/etc/kubernetes/csr-approver.conf",
        "nodes": declared_nodes(cluster),
    }
    if cluster.pools:
        # Machines that aren't listed: which names and addresses are theirs, and how many of them.
        document["pools"] = [_known_pool(pool) for pool in cluster.pools]
    config = NodeFile(
        CONFIG_PATH,
        (json.dumps(document, indent=1) + "\n").encode(),
        "parts/approver.py",
        ("nodes.name", "nodes.address", "nodes.role", "pools"),
        mode=0o600,
    )
    name = "kubekiln-csr-approver.service"
    return Part(
        files=(
            *identity(context, "csr-approver", "kubekiln:csr-approver", own_api=True),
            config,
            unit(name),
        ),
        units=(name,),
    )


def _known_pool(pool: NodePool) -> dict[str, str | int]:
    return {
        "name": pool.name,
        "prefix": pool.name_prefix,
        "addresses": str(pool.addresses),
        "max_nodes": pool.max_nodes,
    }


def declared_nodes(cluster: Cluster) -> dict[str, list[str]]:
    """Give the nodes with a kubelet, as an approver reads them."""
    return dict(known_nodes([node for node in cluster.nodes if node.runs_pods]))


def known_nodes(nodes: Sequence[Node]) -> Iterator[tuple[str, list[str]]]:
    """Give each node's name with its addresses, and runs of nodes as one: `w-[0001-5000]`.

    In a run number and addresses go up by one from node to node, so it says as much as the list, in
    a line instead of 5,000: a master's payload would not fit the limits of most platforms.
    """
    at = 0
    while at < len(nodes):
        length = _run_length(nodes, at)
        first, last = nodes[at], nodes[at + length - 1]
        name = first.name
        if length > 1:
            prefix, start = _numbered(first.name)
            name = f"{prefix}[{start}-{_numbered(last.name)[1]}]"
        yield name, [str(address) for address in first.addresses]
        at += length


def _run_length(nodes: Sequence[Node], at: int) -> int:
    prefix, start = _numbered(nodes[at].name)
    if not start:
        return 1
    length = 1
    while at + length < len(nodes):
        node = nodes[at + length]
        expected = f"{prefix}{str(int(start) + length).zfill(len(start))}"
        moved = tuple(address + length for address in nodes[at].addresses)
        if node.name != expected or node.addresses != moved:
            break
        length += 1
    return length if length >= _SHORTEST_RUN else 1


def _numbered(name: str) -> tuple[str, str]:
    match = _NUMBERED.fullmatch(name)
    return (match[1], match[2]) if match else (name, "")
