# SPDX-License-Identifier: Apache-2.0
"""Which rules does `pools` have to keep? A machine must never be taken for another one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network

from cloudinit.families import IPAddress, name_families, of_family
from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster


def pools_join_masters(cluster: Cluster) -> Iterator[Finding]:
    """A single node is a whole cluster: it takes in nobody."""
    if cluster.pools and any(node.role == "single" for node in cluster.nodes):
        yield Finding(
            ("pools",),
            f"pool {cluster.pools[0].name} has no master to join: a single node is alone",
            "give the node role: master",
        )


def pools_are_in_clusters_of_ipv4(cluster: Cluster) -> Iterator[Finding]:
    """A machine finds out one address of its own, by a range of IPv4."""
    if cluster.pools and cluster.network.families != (4,):
        yield Finding(
            ("pools",),
            f"pool {cluster.pools[0].name} has addresses of IPv4, "
            f"the nodes have {name_families(cluster.network.families)}",
            "declare the workers of this cluster under nodes; pools have IPv4 alone so far",
        )


def pools_have_names_of_their_own(cluster: Cluster) -> Iterator[Finding]:
    """Each pool has a directory beside the nodes' ones."""
    taken = {node.name: f"node {node.name}" for node in cluster.nodes}
    for index, pool in enumerate(cluster.pools):
        if pool.name in taken:
            yield Finding(
                ("pools", index, "name"),
                f"name {pool.name} is already that of {taken[pool.name]}",
                "their user-data would overwrite each other",
            )
        taken.setdefault(pool.name, f"pool {index + 1}")


def a_name_tells_which_pool(cluster: Cluster) -> Iterator[Finding]:
    """A pool's machines are known by how their names begin: nobody else's may begin so."""
    for index, pool in enumerate(cluster.pools):
        for node in cluster.nodes:
            if node.name.startswith(pool.name_prefix):
                yield Finding(
                    ("pools", index, "prefix"),
                    f"prefix {pool.name_prefix} of pool {pool.name} fits the node {node.name}",
                    "a machine with the pool's token could ask to be that node",
                )
    for (_, one), (index, other) in itertools.combinations(enumerate(cluster.pools), 2):
        shorter, longer = sorted((one.name_prefix, other.name_prefix), key=len)
        if longer.startswith(shorter):
            yield Finding(
                ("pools", index, "prefix"),
                f"prefix {other.name_prefix} of pool {other.name} and {one.name_prefix} of "
                f"{one.name} fit the same names",
            )


def pools_have_addresses_of_their_own(cluster: Cluster) -> Iterator[Finding]:
    """An address that is declared can't also be given out by DHCP."""
    fixed, nodes = _fixed_addresses(cluster), _node_network(cluster)
    for index, pool in enumerate(cluster.pools):
        at = ("pools", index, "addresses")
        if nodes is not None and not pool.addresses.subnet_of(nodes):
            yield Finding(
                at, f"addresses {pool.addresses} of pool {pool.name} are not in node_cidr "
                f"{nodes}",
            )  # fmt: skip
        for address, whose in fixed.items():
            if address in pool.addresses:
                yield Finding(
                    at, f"addresses {pool.addresses} of pool {pool.name} hold {address} of {whose}",
                    "take a part of node_cidr in which nobody has a fixed address",
                )  # fmt: skip
    for (_, one), (index, other) in itertools.combinations(enumerate(cluster.pools), 2):
        if one.addresses.overlaps(other.addresses):
            yield Finding(
                ("pools", index, "addresses"),
                f"addresses {other.addresses} of pool {other.name} overlap {one.addresses} of "
                f"{one.name}",
            )


def _node_network(cluster: Cluster) -> IPv4Network | None:
    """Give the nodes' network of IPv4; without one another rule has something to say."""
    found = of_family(cluster.network.node_cidrs, 4)
    return found if isinstance(found, IPv4Network) else None


def _fixed_addresses(cluster: Cluster) -> Mapping[IPAddress, str]:
    fixed = {address: node.name for node in cluster.nodes for address in node.addresses}
    fixed |= dict.fromkeys(cluster.network.gateways, "the gateway")
    return fixed | dict.fromkeys(cluster.api.vips, "the API (api.vip)")


def a_pool_has_an_address_for_each_machine(cluster: Cluster) -> Iterator[Finding]:
    """The range is as large as the pool may get."""
    nodes = _node_network(cluster)
    edges = set() if nodes is None else {nodes.network_address, nodes.broadcast_address}
    for index, pool in enumerate(cluster.pools):
        room = pool.addresses.num_addresses - sum(edge in pool.addresses for edge in edges)
        if room < pool.max_nodes:
            yield Finding(
                ("pools", index, "max_nodes"),
                f"pool {pool.name} has {room} addresses for max_nodes {pool.max_nodes}",
                "give it a larger range, or lower max_nodes",
            )


POOL_RULES: tuple[Rule, ...] = (
    pools_join_masters,
    pools_are_in_clusters_of_ipv4,
    pools_have_names_of_their_own,
    a_name_tells_which_pool,
    pools_have_addresses_of_their_own,
    a_pool_has_an_address_for_each_machine,
)
