# SPDX-License-Identifier: Apache-2.0
"""Which rules does a cluster's configuration have to keep that look at several fields?

Each rule is a function that gives its findings; all rules run, so all findings come at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cloudinit.model import Cluster
from kubekiln.config import KeyPath, Source, load_model
from kubekiln.contract import KubernetesContract
from kubekiln.errors import ConfigError, Problem
from kubekiln.paths import Project


@dataclass(frozen=True)
class Finding:
    """What is wrong, at which key, and what to do."""

    at: KeyPath
    what: str
    hint: str | None = None


Rule = Callable[[Cluster], Iterator[Finding]]


def networks_are_disjoint(cluster: Cluster) -> Iterator[Finding]:
    """Node, pod and service networks must not overlap: routes would shadow each other."""
    network = cluster.network
    named = {
        "node_cidr": network.node_cidr,
        "pod_cidr": network.pod_cidr,
        "service_cidr": network.service_cidr,
    }
    for (one, first), (other, second) in itertools.combinations(named.items(), 2):
        if first.overlaps(second):
            yield Finding(
                ("network", other),
                f"{other} {second} overlaps {one} {first}",
                "give each network a range of its own",
            )


def pod_network_is_large_enough(cluster: Cluster) -> Iterator[Finding]:
    """Each node needs a part of the pod network."""
    network = cluster.network
    bits = network.node_mask - network.pod_cidr.prefixlen
    if bits < 0:
        yield Finding(
            ("network", "node_mask"),
            f"node_mask {network.node_mask} is larger than the whole pod_cidr {network.pod_cidr}",
            f"give at least {network.pod_cidr.prefixlen}",
        )
    elif 2**bits < len(cluster.nodes):
        yield Finding(
            ("network", "pod_cidr"),
            f"pod_cidr {network.pod_cidr} has parts for {2**bits} nodes of {len(cluster.nodes)}",
            "give a larger pod_cidr, or a longer node_mask",
        )


def pods_fit_their_network(cluster: Cluster) -> Iterator[Finding]:
    """A node's part of the pod network must have an address for each of its pods."""
    room = 2 ** (32 - cluster.network.node_mask) - 3
    if cluster.kubelet.max_pods > room:
        yield Finding(
            ("kubelet", "max_pods"),
            f"max_pods {cluster.kubelet.max_pods} is more than the {room} addresses of a node",
            "lower max_pods, or give a shorter network.node_mask",
        )


def service_network_is_usable(cluster: Cluster) -> Iterator[Finding]:
    """The API's and the DNS service's addresses are inside; Kubernetes takes at most /12."""
    network = cluster.network
    if not 12 <= network.service_cidr.prefixlen <= 27:
        yield Finding(
            ("network", "service_cidr"),
            f"service_cidr {network.service_cidr} is not between /12 and /27",
            "the API server takes at most 20 bits of hosts; 10.96.0.0/16 is usual",
        )
        return
    dns, taken = network.cluster_dns, (network.service_ip, network.service_cidr[0])
    if dns not in network.service_cidr or dns in taken:
        yield Finding(
            ("network", "dns_ip"),
            f"dns_ip {dns} is not a free address of service_cidr {network.service_cidr}",
            f"for example {network.service_cidr[10]}",
        )


def addresses_are_in_the_node_network(cluster: Cluster) -> Iterator[Finding]:
    """Nodes and the gateway are hosts of node_cidr."""
    network = cluster.network.node_cidr
    edges = (network.network_address, network.broadcast_address)
    for index, node in enumerate(cluster.nodes):
        if node.address not in network or node.address in edges:
            yield Finding(
                ("nodes", index, "address"),
                f"address {node.address} of {node.name} is not a host of node_cidr {network}",
                f"hosts are {network[1]} to {network[-2]}",
            )
    gateway = cluster.network.gateway
    if gateway is not None and (gateway not in network or gateway in edges):
        yield Finding(
            ("network", "gateway"), f"gateway {gateway} is not a host of node_cidr {network}"
        )


def nodes_are_distinct(cluster: Cluster) -> Iterator[Finding]:
    """No two nodes share a name, an address or a MAC address; none has the gateway's."""
    seen: dict[tuple[str, str], str] = {}
    if cluster.network.gateway is not None:
        seen["address", str(cluster.network.gateway)] = "the gateway"
    for index, node in enumerate(cluster.nodes):
        own = {"name": node.name, "address": str(node.address), "mac": cluster.mac_of(node)}
        for key, value in own.items():
            first = seen.setdefault((key, value), f"node {index + 1} ({node.name})")
            if first != f"node {index + 1} ({node.name})":
                yield Finding(
                    ("nodes", index, key),
                    f"{key} {value} is already that of {first}",
                    "two machines with one identity overwrite each other",
                )


def a_single_node_is_alone(cluster: Cluster) -> Iterator[Finding]:
    """Role `single` is a whole cluster: a second node would be a second cluster."""
    for index, node in enumerate(cluster.nodes):
        if node.role == "single" and len(cluster.nodes) > 1:
            yield Finding(
                ("nodes", index, "role"),
                f"node {node.name} has role single, but the cluster has {len(cluster.nodes)} nodes",
                "make a cluster file for each single node",
            )


def the_version_is_supported(cluster: Cluster) -> Iterator[Finding]:
    """Only versions whose differences we know."""
    try:
        KubernetesContract.of(cluster.kubernetes)
    except ConfigError as error:
        problem = error.problems[0]
        yield Finding(("kubernetes",), problem.what, problem.hint)


RULES: tuple[Rule, ...] = (
    the_version_is_supported,
    networks_are_disjoint,
    pod_network_is_large_enough,
    pods_fit_their_network,
    service_network_is_usable,
    addresses_are_in_the_node_network,
    nodes_are_distinct,
    a_single_node_is_alone,
)


def findings(cluster: Cluster) -> list[Finding]:
    """Apply every rule."""
    return [finding for rule in RULES for finding in rule(cluster)]


def load_cluster(name_or_path: str, project: Project) -> Cluster:
    """Read configs/clusters/NAME.yaml (or a path) and check it whole.

    Raises ConfigError with every problem at once.
    """
    path = project.config_path("clusters", name_or_path)
    cluster = load_model(Cluster, path, extra={"name": path.stem})
    problems = _located(findings(cluster), path)
    if problems:
        raise ConfigError.of(problems)
    return cluster


def _located(found: list[Finding], path: Path) -> list[Problem]:
    if not found:
        return []
    source = Source(path)
    ordered = sorted(found, key=lambda f: source.line(_present(source, f.at)))
    return [Problem(f.what, source.where(_present(source, f.at)), f.hint) for f in ordered]


def _present(source: Source, at: KeyPath) -> KeyPath:
    """Shorten a path to what is in the file: a default has no line of its own."""
    while at and not source.has(at):
        at = at[:-1]
    return at
