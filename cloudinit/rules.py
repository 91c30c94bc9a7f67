# SPDX-License-Identifier: Apache-2.0
"""Which rules does a cluster's configuration have to keep that look at several fields?

Each rule is a function that gives its findings; all rules run, so all findings come at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster
from cloudinit.nicrules import NIC_RULES
from kubekiln.config import KeyPath, Source, load_model
from kubekiln.contract import KubernetesContract
from kubekiln.errors import ConfigError, Problem
from kubekiln.paths import Project

# What a kubelet may set of itself beside *.node.kubernetes.io, *.kubelet.kubernetes.io (KEP-279).
_KUBELET_LABELS = (
    "kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os",
    "topology.kubernetes.io/region", "topology.kubernetes.io/zone",
)  # fmt: skip


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


def flannel_is_told_what_it_uses(cluster: Cluster) -> Iterator[Finding]:
    """A backend without encapsulation has no port."""
    flannel = cluster.network.flannel
    if flannel.backend == "host-gw" and flannel.port is not None:
        yield Finding(
            ("network", "flannel", "port"),
            f"port {flannel.port} is given, but host-gw wraps no packets",
            "leave it out, or take backend: vxlan",
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


def labels_of_workers_are_their_own_to_set(cluster: Cluster) -> Iterator[Finding]:
    """A kubelet may not give itself labels by which workloads are kept apart (NodeRestriction).

    Masters' labels are set by the masters, with other rights.
    https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
    """
    for index, node in enumerate(cluster.nodes):
        for key in node.labels if node.role == "worker" else ():
            domain = key.rpartition("/")[0]
            reserved = domain.endswith(("kubernetes.io", "k8s.io"))
            allowed = domain.endswith(("node.kubernetes.io", "kubelet.kubernetes.io"))
            restricted = domain.endswith("node-restriction.kubernetes.io")
            if reserved and (restricted or not allowed) and key not in _KUBELET_LABELS:
                yield Finding(
                    ("nodes", index, "labels", key),
                    f"the kubelet of {node.name} may not give itself the label {key}",
                    "set it with `kubectl label node` once the node is there, or use another name",
                )


def there_is_a_control_plane(cluster: Cluster) -> Iterator[Finding]:
    """A cluster without an API server is none."""
    if not cluster.masters:
        yield Finding(
            ("nodes",),
            "no node has role single or master",
            "give one node (or three) role: master",
        )


def etcd_survives_what_it_seems_to(cluster: Cluster) -> Iterator[Finding]:
    """An even number of members survives no more failures than one less, and more can fail.

    https://etcd.io/docs/v3.6/faq/#why-an-odd-number-of-cluster-members
    """
    count = len(cluster.etcd_members)
    if count > 1 and count % 2 == 0:
        yield Finding(
            ("nodes",),
            f"etcd would have {count} members: they survive no more failures than {count - 1}",
            f"take {count - 1} or {count + 1} of {cluster.etcd_members[0].role}",
        )
    elif count > 7:
        yield Finding(
            ("nodes",),
            f"etcd would have {count} members, each of which must take every write",
            "take 3 or 5, of role etcd, and more masters without a database",
        )


def the_virtual_address_is_free(cluster: Cluster) -> Iterator[Finding]:
    """The virtual address is a host of the nodes' network and no node's own."""
    vip, network = cluster.api.vip, cluster.network
    if vip is None:
        return
    edges = (network.node_cidr.network_address, network.node_cidr.broadcast_address)
    if vip not in network.node_cidr or vip in edges:
        yield Finding(
            ("api", "vip"),
            f"vip {vip} is not a host of node_cidr {network.node_cidr}",
            "VRRP moves it between machines of one network",
        )
    if vip == network.gateway or vip in {node.address for node in cluster.nodes}:
        yield Finding(("api", "vip"), f"vip {vip} is another machine's own address")
    if any(node.role == "single" for node in cluster.nodes):
        yield Finding(
            ("api", "vip"), "a single node has no use for a virtual address", "leave api.vip out"
        )


def ports_of_a_master_are_distinct(cluster: Cluster) -> Iterator[Finding]:
    """The API server listens on every address of a master, its balancer on one of them."""
    if cluster.api.local_port == cluster.api.port:
        yield Finding(
            ("api", "local_port"),
            f"local_port {cluster.api.local_port} is the API's own port",
            "the balancer of a master could not listen there",
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
    flannel_is_told_what_it_uses,
    addresses_are_in_the_node_network,
    nodes_are_distinct,
    a_single_node_is_alone,
    there_is_a_control_plane,
    labels_of_workers_are_their_own_to_set,
    etcd_survives_what_it_seems_to,
    the_virtual_address_is_free,
    ports_of_a_master_are_distinct,
    *NIC_RULES,
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
