# SPDX-License-Identifier: Apache-2.0
"""What can a cluster not have that kubeadm makes?"""

from __future__ import annotations

from collections.abc import Iterator

from cloudinit import sizing
from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster


def the_bootstrap_has_every_role(cluster: Cluster) -> Iterator[Finding]:
    """kubeadm runs the database on the masters, as static pods."""
    for index, node in enumerate(cluster.nodes):
        if cluster.bootstrap == "kubeadm" and node.role == "etcd":
            yield Finding(
                ("nodes", index, "role"),
                f"node {node.name} has role etcd, which bootstrap: kubeadm does not know",
                "its masters have the database: leave the node out, or take bootstrap: systemd",
            )


def the_bootstrap_has_pools(cluster: Cluster) -> Iterator[Finding]:
    """A pool's machine joins by a token, and writes its own configuration."""
    if cluster.bootstrap == "kubeadm" and cluster.pools:
        yield Finding(
            ("pools",),
            "pools are not for clusters of bootstrap: kubeadm",
            "list the workers under nodes, or take bootstrap: systemd",
        )


def the_bootstrap_has_every_database(cluster: Cluster) -> Iterator[Finding]:
    """kubeadm runs one etcd a master."""
    if cluster.bootstrap == "kubeadm" and sizing.has_events_apart(cluster):
        yield Finding(
            ("etcd", "events"),
            "events would have an etcd of their own, which bootstrap: kubeadm does not know",
            "set etcd.events: false, or take bootstrap: systemd",
        )


def the_bootstrap_has_the_disk(cluster: Cluster) -> Iterator[Finding]:
    """kubeadm's etcd is a pod, which nothing keeps from starting without its disk."""
    if cluster.bootstrap == "kubeadm" and cluster.etcd.disk_gib:
        yield Finding(
            ("etcd", "disk_gib"),
            "a disk of its own for etcd is not for clusters of bootstrap: kubeadm",
            "leave it out, or take bootstrap: systemd",
        )


BOOTSTRAP_RULES: tuple[Rule, ...] = (
    the_bootstrap_has_every_role,
    the_bootstrap_has_pools,
    the_bootstrap_has_every_database,
    the_bootstrap_has_the_disk,
)
