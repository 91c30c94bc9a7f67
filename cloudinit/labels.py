# SPDX-License-Identifier: Apache-2.0
"""Which labels and taints does Kubernetes take, and which labels may a worker's kubelet give its
own node (NodeRestriction)?

Masters' labels are set by the masters, with other rights.
https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster
from cloudinit.modeltypes import DOMAIN
from kubekiln.config import KeyPath

# What a kubelet may set of itself beside *.node.kubernetes.io, *.kubelet.kubernetes.io (KEP-279).
_KUBELET_LABELS = (
    "kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os",
    "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NAME_HINT = "A-Z, a-z, 0-9, '-', '_' and '.', at most 63, the first and last a letter or digit"
_LONGEST_PREFIX = 253


def labels_and_taints_are_ones_of_kubernetes(cluster: Cluster) -> Iterator[Finding]:
    """A kubelet does not start with a label that isn't one, nor can the API take its taint."""
    for index, node in enumerate(cluster.nodes):
        for key, value in node.labels.items():
            yield from _malformed("label", key, value, ("nodes", index, "labels", key))
    for index, pool in enumerate(cluster.pools):
        for key, value in pool.labels.items():
            yield from _malformed("label", key, value, ("pools", index, "labels", key))
        for at, taint in enumerate(pool.taints):
            yield from _malformed("taint", taint.key, taint.value, ("pools", index, "taints", at))


def _malformed(what: str, key: str, value: str, at: KeyPath) -> Iterator[Finding]:
    prefix, slash, name = key.rpartition("/")
    is_prefix = len(prefix) <= _LONGEST_PREFIX and re.fullmatch(DOMAIN, prefix)
    if not _NAME.fullmatch(name) or (slash and not is_prefix):
        yield Finding(
            at, f"{key!r} is not the key of a {what}", f"[example.com/]name; name: {_NAME_HINT}"
        )
    if value and not _NAME.fullmatch(value):
        yield Finding(at, f"{value!r} is not the value of a {what}", _NAME_HINT)


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
        is_reserved = _is_below(domain, "kubernetes.io", "k8s.io")
        is_allowed = _is_below(domain, "node.kubernetes.io", "kubelet.kubernetes.io")
        if is_reserved and not is_allowed and key not in _KUBELET_LABELS:
            yield Finding(
                (*at, "labels", key),
                f"the kubelet of {name} may not give itself the label {key}",
                "set it with `kubectl label node` once the node is there, or use another name",
            )


def _is_below(domain: str, *others: str) -> bool:
    return any(domain == other or domain.endswith(f".{other}") for other in others)


LABEL_RULES: tuple[Rule, ...] = (
    labels_and_taints_are_ones_of_kubernetes,
    labels_are_the_kubelets_to_set,
)
