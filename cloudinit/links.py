# SPDX-License-Identifier: Apache-2.0
"""Which network links does a node have, and how is each one configured?

Described once; cloud-init's network-config and systemd-networkd's files are written from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloudinit.model import Cluster, Node
from cloudinit.nic import DEFAULT_ROUTES, Nic

# What a card that is found by its MAC address is called during the first boot. cloud-init wants a
# name; nothing of ours relies on it, as later boots have the kernel's.
FIRST_NAME = "eth0"
_WILDCARDS = frozenset("*?[")
_STATIC_KEYS = (
    "nodes.address", "network.node_cidr", "network.gateway", "network.nameservers", "network.mtu",
    "network.ntp_servers",
)  # fmt: skip


@dataclass(frozen=True)
class Link:
    """A card or a VLAN on one, as it is to be."""

    name: str
    """Its name, a pattern that fits it, or what it is called if it is found by `mac`."""
    mac: str | None = None
    """By this it is found; if there is none, by its name."""
    vlan: int | None = None
    """It is this VLAN, on the link that has its name among `vlans`."""
    vlans: tuple[str, ...] = ()
    """Names of the VLANs on it."""
    addresses: tuple[str, ...] = ()
    """With prefix lengths."""
    leased: bool = False
    """Whether DHCP gives its address."""
    leads_out: bool = False
    """Whether what DHCP says of routes, name servers and the MTU is for the whole node."""
    routes: tuple[tuple[str, str], ...] = ()
    """Networks and the routers to them."""
    nameservers: tuple[str, ...] = ()
    ntp_servers: tuple[str, ...] = ()
    mtu: int | None = None
    optional: bool = False
    """Whether the node is online without it."""
    keys: tuple[str, ...] = ()
    """The configuration keys that it comes from."""

    @property
    def fits_several(self) -> bool:
        """Whether it is found by a pattern, which could fit a link that is found exactly, too."""
        return self.mac is None and bool(_WILDCARDS & set(self.name))


def links_of(cluster: Cluster, node: Node) -> tuple[Link, ...]:
    """Describe a node's links; the first one is the card that leads to the node network."""
    own = _own_card(cluster, node)
    wanted = [(own, _node_network(cluster, node))]
    for index, nic in enumerate(node.nics):
        card = _further_card(cluster, node, index) if nic.is_own_card else own
        wanted.append((card, _further(nic)))
    cards: dict[tuple[str, str | None], Link] = {}
    vlans: dict[tuple[str, str | None], list[Link]] = {}
    for card, link in wanted:
        key = (card.name, card.mac)
        cards.setdefault(key, card)
        if link.vlan is None:
            cards[key] = replace(link, name=card.name, mac=card.mac, keys=(*card.keys, *link.keys))
        else:
            vlans.setdefault(key, []).append(link)
    return tuple(link for key, card in cards.items() for link in _stack(card, vlans.get(key, [])))


def further_macs(cluster: Cluster, node: Node) -> tuple[str, ...]:
    """Give the MAC addresses of a node's further cards, to a target that makes the machine.

    A card that is found by its name may have any.
    """
    cards: dict[str, str] = {}
    for index, nic in enumerate(node.nics):
        if nic.is_own_card:
            mac = cluster.mac_of_nic(node, index)
            cards.setdefault(nic.interface or mac, mac)
    return tuple(cards.values())


def _own_card(cluster: Cluster, node: Node) -> Link:
    if node.interface is not None:
        return Link(node.interface, keys=("nodes.interface",))
    return Link(FIRST_NAME, mac=cluster.mac_of(node), keys=("nodes.mac",))


def _further_card(cluster: Cluster, node: Node, index: int) -> Link:
    name = node.nics[index].interface
    if name is not None:
        return Link(name, optional=True)
    mac = cluster.mac_of_nic(node, index)
    first = next(i for i in range(index + 1) if cluster.mac_of_nic(node, i) == mac)
    return Link(f"eth{first + 1}", mac=mac, optional=True)


def _node_network(cluster: Cluster, node: Node) -> Link:
    network = cluster.network
    link = Link(
        _vlan_name(network.vlan), vlan=network.vlan, mtu=network.mtu,
        ntp_servers=network.ntp_servers,
    )  # fmt: skip
    vlan = () if network.vlan is None else ("network.vlan",)
    if network.addressing == "dhcp":
        keys = ("network.addressing", "network.mtu", "network.ntp_servers", *vlan)
        return replace(link, leased=True, leads_out=True, keys=keys)
    return replace(
        link,
        addresses=tuple(str(interface) for interface in cluster.interfaces_of(node)),
        routes=tuple((DEFAULT_ROUTES[via.version], str(via)) for via in network.gateways),
        nameservers=tuple(str(address) for address in network.nameservers),
        keys=(*_STATIC_KEYS, *vlan),
    )


def _further(nic: Nic) -> Link:
    return Link(
        _vlan_name(nic.vlan),
        vlan=nic.vlan,
        addresses=tuple(str(address) for address in nic.addresses),
        leased=nic.dhcp,
        routes=tuple((str(route.to), str(route.via)) for route in nic.routes),
        mtu=nic.mtu,
        optional=True,
        keys=("nodes.nics",),
    )


def _stack(card: Link, vlans: list[Link]) -> list[Link]:
    """Put VLANs on a card; one without a network of its own takes frames as large as theirs."""
    mtu = card.mtu
    if not (mtu or card.addresses or card.leased):
        mtu = max((link.mtu for link in vlans if link.mtu is not None), default=None)
    names = tuple(link.name for link in vlans)
    keys = dict.fromkeys(key for link in (card, *vlans) for key in link.keys)
    return [replace(card, vlans=names, mtu=mtu, keys=tuple(keys)), *vlans]


def _vlan_name(vlan: int | None) -> str:
    return f"vlan{vlan}"
