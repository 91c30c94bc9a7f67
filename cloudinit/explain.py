# SPDX-License-Identifier: Apache-2.0
"""Why is a file on a node, and what does it cost of the payload?"""

from __future__ import annotations

from dataclasses import dataclass

from cloudinit.model import Cluster
from cloudinit.part import NodeFile
from cloudinit.render import open_state, render_payload
from cloudinit.userdata import costs
from cloudinit.versions import component_versions
from kubekiln.errors import ConfigError
from kubekiln.paths import Project


@dataclass(frozen=True)
class Explanation:
    """One file of a node: where it came from, and its size alone and in the payload."""

    file: NodeFile
    size: int
    cost: int
    """Bytes by which the compressed user-data would be smaller without it."""


def explain_node(cluster: Cluster, node_name: str, *, project: Project) -> tuple[Explanation, ...]:
    """Explain each file of a node (or pool); renders in memory and writes nothing.

    Raises ConfigError if the cluster has no such node.
    """
    node = next((o for o in cluster.payloads if o.name == node_name), None)
    if node is None:
        raise ConfigError(
            f"cluster {cluster.name} has no node {node_name!r}",
            hint=f"it has: {', '.join(o.name for o in cluster.payloads)}",
        )
    versions = component_versions(cluster, project)
    payload = render_payload(cluster, node, open_state(cluster, project), project, versions)
    found = costs(payload.context, payload.files)
    return tuple(Explanation(file, len(file.content), cost) for file, cost in found)


def find_file(explanations: tuple[Explanation, ...], path: str) -> Explanation:
    """Pick one by its path on the node; raises ConfigError naming the nearest ones."""
    for explanation in explanations:
        if explanation.file.path == path:
            return explanation
    tail = path.rpartition("/")[2]
    near = [e.file.path for e in explanations if tail and tail in e.file.path]
    raise ConfigError(
        f"user-data puts no {path} on the node",
        hint=f"did you mean {', '.join(near)}?"
        if near
        else "what is the same on every node is in the image: elements/",
    )
