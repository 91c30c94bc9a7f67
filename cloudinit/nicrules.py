# SPDX-License-Identifier: Apache-2.0
"""Which rules do a node's network cards have to keep?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fnmatch import fnmatchcase

from cloudinit.families import SMALLEST_MTU, of_family
from cloudinit.finding import Finding, Rule
from cloudinit.links import links_of
from cloudinit.model import Cluster, Node
from cloudinit.nic import DEFAULT_ROUTES, USUAL_MTU
from kubekiln.config import KeyPath

# What Linux, the pod network and a node's own VLANs have links called.
_VIRTUAL = ("lo", "cni0", "flannel.1", "flannel0", "veth1a2b3c4d", "vlan1")


def cards_are_distinct(cluster: Cluster) -> Iterator[Finding]:
    """No two cards of the cluster share a MAC address or an address."""
    seen: dict[tuple[str, str], str] = {}
    for node in cluster.nodes:
        seen["mac", cluster.mac_of(node)] = node.name
        seen |= {("address", str(address)): node.name for address in node.addresses}
    for at, node, index in _nics(cluster):
        nic, own = node.nics[index], f"{node.name}, nics[{index}]"
        values = [("address", str(address.ip)) for address in nic.addresses]
        if nic.is_own_card and nic.interface is None:
            # One card may stand there several times, with a VLAN each.
            card = f"{node.name}, a VLAN" if nic.vlan is not None else own
            values.append(("mac", cluster.mac_of_nic(node, index)))
        else:
            card = own
        for key, value in values:
            owner = card if key == "mac" else own
            first = seen.setdefault((key, value), owner)
            if first != owner:
                yield Finding(
                    (*at, key),
                    f"{key} {value} is already that of {first}",
                    "two cards with one address are one to the network",
                )


def cards_are_found_by_one_rule(cluster: Cluster) -> Iterator[Finding]:
    """A name or pattern fits one card of a node, and nothing that Kubernetes makes."""
    for index, node in enumerate(cluster.nodes):
        named = [
            (("nodes", index, "interface"), node.interface, cluster.network.vlan),
            *((("nodes", index, "nics", i, "interface"), nic.interface, nic.vlan)
              for i, nic in enumerate(node.nics)),
        ]  # fmt: skip
        cards = [(at, name, vlan) for at, name, vlan in named if name is not None]
        for at, name, _ in cards:
            fitting = [virtual for virtual in _VIRTUAL if fnmatchcase(virtual, name)]
            if fitting:
                yield Finding(
                    at,
                    f"interface {name} also fits {fitting[0]}, which is no network card",
                    "name the card as `ip link` does, or take a pattern such as en*",
                )
        for (_, one, tag), (at, other, other_tag) in itertools.combinations(cards, 2):
            one_card_tagged = one == other and (tag or other_tag)
            if not one_card_tagged and (fnmatchcase(one, other) or fnmatchcase(other, one)):
                yield Finding(
                    at,
                    f"interface {other} may be the card that interface {one} means",
                    "give each card a name of its own, or its MAC address",
                )


def further_networks_are_apart(cluster: Cluster) -> Iterator[Finding]:
    """A further card's network overlaps no other: the node would send packets the wrong way."""
    for index, node in enumerate(cluster.nodes):
        seen = list(cluster.network.networks())
        for i, nic in enumerate(node.nics):
            for address, (name, other) in itertools.product(nic.addresses, seen):
                if address.version == other.version and address.network.overlaps(other):
                    yield Finding(
                        ("nodes", index, "nics", i, "address"),
                        f"address {address} of {node.name} is in a network that overlaps "
                        f"{name} {other}",
                        "give each card of a node a network of its own",
                    )
            seen += [(f"that of nics[{i}],", address.network) for address in nic.addresses]


def routes_of_cards_are_usable(cluster: Cluster) -> Iterator[Finding]:
    """A router is in the network of its card, and there is one default route of each family."""
    for at, node, index in _nics(cluster):
        nic = node.nics[index]
        for number, route in enumerate(nic.routes):
            here = (*at, "routes", number)
            own = of_family(nic.addresses, route.via.version)
            if own is None:
                yield Finding(
                    here,
                    f"a route by {route.via}, but the card has no IPv{route.via.version} address "
                    "of its own",
                    "give it an address; with DHCP networks are reached as the node's gateway says",
                )
            elif route.via not in own.network or route.via == own.ip:
                yield Finding(
                    (*here, "via"),
                    f"router {route.via} is not another machine of {own.network}",
                )
    for (index, node), family in itertools.product(enumerate(cluster.nodes), DEFAULT_ROUTES):
        yield from _one_default_route(cluster, node, index, family)


def _one_default_route(cluster: Cluster, node: Node, index: int, family: int) -> Iterator[Finding]:
    leased = cluster.network.addressing == "dhcp" and family == 4
    taken = "the lease's" if leased else "network.gateway"
    free = not leased and of_family(cluster.network.gateways, family) is None
    for i, nic in enumerate(node.nics):
        for number, route in enumerate(nic.routes):
            if str(route.to) != DEFAULT_ROUTES[family]:
                continue
            at = ("nodes", index, "nics", i, "routes", number)
            if not free:
                yield Finding(
                    at,
                    f"a second default route by {route.via}, beside {taken}",
                    "leave out one of them, or name the networks behind this router",
                )
            free, taken = False, f"{route.via}"


def vlans_are_distinct(cluster: Cluster) -> Iterator[Finding]:
    """A node's VLANs are called by their IDs."""
    for index, node in enumerate(cluster.nodes):
        seen = {} if cluster.network.vlan is None else {cluster.network.vlan: "the node network"}
        for i, nic in enumerate(node.nics):
            if nic.vlan is None:
                continue
            first = seen.setdefault(nic.vlan, f"nics[{i}]")
            if first != f"nics[{i}]":
                yield Finding(
                    ("nodes", index, "nics", i, "vlan"),
                    f"vlan {nic.vlan} is already that of {first}",
                    "one node has a VLAN once",
                )


def mtu_of_a_vlan_fits_its_card(cluster: Cluster) -> Iterator[Finding]:
    """A VLAN on a card with another network sends no larger frames than that network may have."""
    for index, node in enumerate(cluster.nodes):
        links = {link.name: link for link in links_of(cluster, node)} if node.nics else {}
        for card in links.values():
            room = card.mtu or USUAL_MTU
            for vlan in (links[name] for name in card.vlans):
                if vlan.mtu is not None and vlan.mtu > room:
                    i = [nic.vlan for nic in node.nics].index(vlan.vlan)
                    yield Finding(
                        ("nodes", index, "nics", i, "mtu"),
                        f"mtu {vlan.mtu} of VLAN {vlan.vlan} is more than the {room} of its card",
                        "raise the card's mtu, or lower this one",
                    )


def cards_have_room_for_ipv6(cluster: Cluster) -> Iterator[Finding]:
    """Linux takes IPv6 off a link whose frames are too small for it."""
    for at, node, index in _nics(cluster):
        nic = node.nics[index]
        if nic.mtu and nic.mtu < SMALLEST_MTU[6] and of_family(nic.addresses, 6):
            yield Finding(
                (*at, "mtu"),
                f"mtu {nic.mtu} is less than the {SMALLEST_MTU[6]} bytes that IPv6 needs",
                f"give {SMALLEST_MTU[6]} or more, or leave it out",
            )


def _nics(cluster: Cluster) -> Iterator[tuple[KeyPath, Node, int]]:
    for index, node in enumerate(cluster.nodes):
        for i in range(len(node.nics)):
            yield ("nodes", index, "nics", i), node, i


NIC_RULES: tuple[Rule, ...] = (
    cards_are_distinct,
    cards_are_found_by_one_rule,
    further_networks_are_apart,
    routes_of_cards_are_usable,
    vlans_are_distinct,
    mtu_of_a_vlan_fits_its_card,
    cards_have_room_for_ipv6,
)
