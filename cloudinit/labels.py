# SPDX-License-Identifier: Apache-2.0
"""Which labels may the kubelet of a worker give its own node? (NodeRestriction)

Masters' labels are set by the masters, with other rights.
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cloudinit.finding import Finding
from cloudinit.model import Cluster
from kubekiln.config import KeyPath

# What a kubelet may set of itself beside *.node.kubernetes.io, *.kubelet.kubernetes.io (KEP-279).
_KUBELET_LABELS = (
    "kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os",
    "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
)  # fmt: skip


def labels_are_the_kubelets_to_set(cluster: Cluster) -> Iterator[Finding]:
    """A kubelet may not give itself labels by which workloads are kept apart."""
    for index, node in enumerate(cluster.nodes):
        if node.role == "worker":
            yield from _findings(node.name, node.labels, ("nodes", index))
    for index, pool in enumerate(cluster.pools):
        yield from _findings(pool.name, pool.labels, ("pools", index))


def _findings(name: str, labels: Mapping[str, str], at: KeyPath) -> Iterator[Finding]:
    for key in labels:
        domain = key.rpartition("/")[0]
        reserved = domain.endswith(("kubernetes.io", "k8s.io"))
        allowed = domain.endswith(("node.kubernetes.io", "kubelet.kubernetes.io"))
        restricted = domain.endswith("node-restriction.kubernetes.io")
        if reserved and (restricted or not allowed) and key not in _KUBELET_LABELS:
            yield Finding(
                (*at, "labels", key),
                f"the kubelet of {name} may not give itself the label {key}",
                "set it with `kubectl label node` once the node is there, or use another name",
            )
