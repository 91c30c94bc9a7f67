# SPDX-License-Identifier: Apache-2.0
"""Which names are too long for a certificate? (The common name of X.509: 64 characters.)

https://www.rfc-editor.org/rfc/rfc5280#appendix-A.1, ub-common-name
"""

from __future__ import annotations

from collections.abc import Iterator

from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster

_COMMON_NAME = 64
LONGEST_NODE = _COMMON_NAME - len("system:node:")
# The longest one of the authorities.
LONGEST_CLUSTER = _COMMON_NAME - len(" front-proxy CA")


def the_authorities_have_room_for_the_clusters_name(cluster: Cluster) -> Iterator[Finding]:
    """Each authority is called after its cluster."""
    if len(cluster.name) > LONGEST_CLUSTER:
        yield Finding(
            ("name",),
            f"name {cluster.name} has {len(cluster.name)} characters, certificates have room for "
            f"{LONGEST_CLUSTER}",
            "give a shorter name; without one it is that of the file",
        )


def kubelets_certificates_have_room_for_their_names(cluster: Cluster) -> Iterator[Finding]:
    """A kubelet is known by the common name of its certificate."""
    for index, node in enumerate(cluster.nodes):
        if node.runs_pods and len(node.name) > LONGEST_NODE:
            yield Finding(
                ("nodes", index, "name"),
                f"node {node.name} has {len(node.name)} characters, the certificate of a kubelet "
                f"has room for {LONGEST_NODE}",
                "give it a shorter name",
            )


NAME_RULES: tuple[Rule, ...] = (
    the_authorities_have_room_for_the_clusters_name,
    kubelets_certificates_have_room_for_their_names,
)
