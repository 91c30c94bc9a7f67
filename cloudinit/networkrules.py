# SPDX-License-Identifier: Apache-2.0
"""Which rules do a cluster's networks and addresses have to keep, each family for itself?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from cloudinit.families import IPAddress, IPNetwork, families_of, joined, name_families, of_family
from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster
from cloudinit.modeltypes import is_plain_address
from cloudinit.networkmodel import NODE_LOCAL_DNS
from kubekiln.channel import CHANNELS
from kubekiln.config import KeyPath

# Smallest and largest prefix length: the API server takes at most 20 bits of hosts, and 32
# addresses are the fewest in which its own and the name service's have their usual places.
_SERVICE_PREFIXES = {4: (12, 27), 6: (108, 123)}
_SERVICE_EXAMPLES = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}
# The controller manager divides an IPv6 network into no more parts (cidrset.clusterSubnetMaxDiff).
_MOST_IPV6_PARTS_BITS = 16
_MASK_KEYS = {4: "node_mask", 6: "node_mask_ipv6"}
# Of a node's part of the pod network: network and broadcast (IPv4), and the bridge's own.
_NOT_FOR_PODS = {4: 3, 6: 2}


def families_are_those_of_the_nodes(cluster: Cluster) -> Iterator[Finding]:
    """Every network and node has the families of node_cidr, and in its order.

    Kubernetes takes the first of each pair for the primary one, and wants one answer.
    """
    network = cluster.network
    named: list[tuple[KeyPath, Sequence[IPAddress | IPNetwork]]] = [
        (("network", "pod_cidr"), network.pod_cidrs),
        (("network", "service_cidr"), network.service_cidrs),
    ]
    named += [(("nodes", i, "address"), node.addresses) for i, node in enumerate(cluster.nodes)]
    for at, values in named:
        if families_of(values) != network.families:
            yield Finding(
                at,
                f"{at[-1]} {joined(values)} has {name_families(families_of(values))}, "
                f"node_cidr {joined(network.node_cidrs)} has {name_families(network.families)}",
                "give one of each family, in the same order; the first is the primary one",
            )


def other_addresses_are_of_families_that_the_nodes_have(cluster: Cluster) -> Iterator[Finding]:
    """An address of another family would be reached from nowhere."""
    network = cluster.network
    others: list[tuple[KeyPath, Sequence[IPAddress]]] = [
        (("network", "gateway"), network.gateways),
        (("network", "dns_ip"), network.dns_ips),
        (("network", "nameservers"), network.nameservers),
        (("network", "ntp_servers"), network.ntp_addresses),
        (("api", "vip"), cluster.api.vips),
    ]
    for at, addresses in others:
        for address in addresses:
            if address.version not in network.families:
                yield Finding(
                    at,
                    f"{at[-1]} {address} is IPv{address.version}, "
                    f"the nodes have {name_families(network.families)}",
                    "give node_cidr and the nodes an address of that family, or leave it out",
                )


def time_servers_names_can_be_asked_for(cluster: Cluster) -> Iterator[Finding]:
    """Nodes with static addresses ask `nameservers` alone; with DHCP those of the lease."""
    network = cluster.network
    if network.addressing == "static" and not network.nameservers:
        for name in network.ntp_servers:
            if not is_plain_address(name):
                yield Finding(
                    ("network", "ntp_servers"),
                    f"no name server could tell the address of {name}",
                    "write the address instead, or give `nameservers`",
                )


def dhcp_gives_the_nodes_families(cluster: Cluster) -> Iterator[Finding]:
    """Nodes ask for a lease of IPv4 alone.

    Where nothing but DHCP is possible, there is another finding (`datasource.py`).
    """
    network, has_choice = cluster.network, CHANNELS[cluster.datasource].carries_network
    if network.addressing == "dhcp" and 6 in network.families and has_choice:
        yield Finding(
            ("network", "addressing"),
            f"addressing dhcp gives IPv4, the nodes have {name_families(network.families)}",
            "take addressing: static",
        )


def networks_are_disjoint(cluster: Cluster) -> Iterator[Finding]:
    """Node, pod and service networks must not overlap: routes would shadow each other."""
    pairs = itertools.combinations(cluster.network.networks(), 2)
    for (one, first), (other, second) in pairs:
        if first.version == second.version and first.overlaps(second):
            yield Finding(
                ("network", other),
                f"{other} {second} overlaps {one} {first}",
                "give each network a range of its own",
            )


def pod_network_is_large_enough(cluster: Cluster) -> Iterator[Finding]:
    """Each node needs a part of the pod network."""
    network = cluster.network
    for pods in network.pod_cidrs:
        key, mask = _MASK_KEYS[pods.version], network.mask_of(pods.version)
        bits = mask - pods.prefixlen
        if bits < 0:
            yield Finding(
                ("network", key),
                f"{key} {mask} is larger than the whole pod_cidr {pods}",
                f"give at least {pods.prefixlen}",
            )
        elif 2**bits < (count := max(len(cluster.nodes), cluster.sized_for)):
            yield Finding(
                ("network", "pod_cidr"),
                f"pod_cidr {pods} has parts for {2**bits} nodes of {count}",
                f"give a larger pod_cidr, or a longer {key}",
            )
        elif pods.version == 6 and bits > _MOST_IPV6_PARTS_BITS:
            yield Finding(
                ("network", "pod_cidr"),
                f"pod_cidr {pods} has {bits} bits for nodes' parts of /{mask}",
                f"the controller manager takes at most {_MOST_IPV6_PARTS_BITS}: "
                f"a /{mask - _MOST_IPV6_PARTS_BITS} or smaller, for example a /{mask - 8}",
            )


def pods_fit_their_network(cluster: Cluster) -> Iterator[Finding]:
    """A node's part of the pod network must have an address for each of its pods."""
    for pods in cluster.network.pod_cidrs:
        mask = cluster.network.mask_of(pods.version)
        room = 2 ** (pods.max_prefixlen - mask) - _NOT_FOR_PODS[pods.version]
        if cluster.kubelet.max_pods > room:
            yield Finding(
                ("kubelet", "max_pods"),
                f"max_pods {cluster.kubelet.max_pods} is more than the {room} addresses of a node",
                f"lower max_pods, or give a shorter network.{_MASK_KEYS[pods.version]}",
            )


def service_network_is_usable(cluster: Cluster) -> Iterator[Finding]:
    """The API's and the DNS service's addresses are inside, and the API server takes the size."""
    network = cluster.network
    for services in network.service_cidrs:
        largest, smallest = _SERVICE_PREFIXES[services.version]
        if not largest <= services.prefixlen <= smallest:
            yield Finding(
                ("network", "service_cidr"),
                f"service_cidr {services} is not between /{largest} and /{smallest}",
                "the API server takes at most 20 bits of hosts; "
                f"{_SERVICE_EXAMPLES[services.version]} is usual",
            )
            continue
        dns = of_family(network.cluster_dns, services.version)
        if dns not in services or dns in (services[0], services[1]):
            yield Finding(
                ("network", "dns_ip"),
                f"dns_ip {dns} is not a free address of service_cidr {services}",
                f"for example {services[10]}",
            )


def addresses_are_in_the_node_network(cluster: Cluster) -> Iterator[Finding]:
    """Nodes and the gateway are hosts of node_cidr."""
    networks = cluster.network.node_cidrs
    for index, node in enumerate(cluster.nodes):
        for address, network in _not_hosts(node.addresses, networks):
            yield Finding(
                ("nodes", index, "address"),
                f"address {address} of {node.name} is not a host of node_cidr {network}",
                f"hosts are {network[1]} to {network[-2]}",
            )
    for gateway, network in _not_hosts(cluster.network.gateways, networks):
        yield Finding(
            ("network", "gateway"), f"gateway {gateway} is not a host of node_cidr {network}"
        )


def _not_hosts(
    addresses: Iterable[IPAddress], networks: Sequence[IPNetwork]
) -> Iterator[tuple[IPAddress, IPNetwork]]:
    """Give what is not a host of its family's network; other families are another rule's."""
    for address in addresses:
        network = of_family(networks, address.version)
        # IPv6 has no broadcast, but its first address means "any router" (RFC 4291, 2.6.1), and
        # the last ones are kept for such uses as well (RFC 2526).
        if network is not None and (
            address not in network or address in (network[0], network.broadcast_address)
        ):
            yield address, network


def nodes_are_distinct(cluster: Cluster) -> Iterator[Finding]:
    """No two nodes share a name, an address or a MAC address; none has the gateway's."""
    seen = {("address", str(gateway)): "the gateway" for gateway in cluster.network.gateways}
    for index, node in enumerate(cluster.nodes):
        own = [("name", node.name), *(("address", str(a)) for a in node.addresses)]
        own.append(("mac", cluster.mac_of(node)))
        for key, value in own:
            first = seen.setdefault((key, value), f"node {index + 1} ({node.name})")
            if first != f"node {index + 1} ({node.name})":
                yield Finding(
                    ("nodes", index, key),
                    f"{key} {value} is already that of {first}",
                    "two machines with one identity overwrite each other",
                )


def the_virtual_address_is_free(cluster: Cluster) -> Iterator[Finding]:
    """The virtual address is a host of the nodes' network and no node's own."""
    vips, network = cluster.api.vips, cluster.network
    for vip, nodes in _not_hosts(vips, network.node_cidrs):
        yield Finding(
            ("api", "vip"),
            f"vip {vip} is not a host of node_cidr {nodes}",
            "VRRP moves it between machines of one network",
        )
    taken = {*network.gateways, *(a for node in cluster.nodes for a in node.addresses)}
    for vip in vips:
        if vip in taken:
            yield Finding(("api", "vip"), f"vip {vip} is another machine's own address")
    if vips and any(node.role == "single" for node in cluster.nodes):
        yield Finding(
            ("api", "vip"), "a single node has no use for a virtual address", "leave api.vip out"
        )


def pods_reach_their_nodes_dns_cache(cluster: Cluster) -> Iterator[Finding]:
    """Its address is of IPv4."""
    if cluster.network.dns_cache and 4 not in cluster.network.families:
        yield Finding(
            ("network", "dns_cache"),
            f"pods without IPv4 can't ask {NODE_LOCAL_DNS}",
            "leave dns_cache out, or make the cluster dual-stack",
        )


NETWORK_RULES: tuple[Rule, ...] = (
    families_are_those_of_the_nodes,
    other_addresses_are_of_families_that_the_nodes_have,
    time_servers_names_can_be_asked_for,
    dhcp_gives_the_nodes_families,
    networks_are_disjoint,
    pod_network_is_large_enough,
    pods_fit_their_network,
    service_network_is_usable,
    addresses_are_in_the_node_network,
    nodes_are_distinct,
    pods_reach_their_nodes_dns_cache,
    the_virtual_address_is_free,
)
