# SPDX-License-Identifier: Apache-2.0
"""How does a payload stand against each platform's limit, and does a cluster fit its platform?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster
from kubekiln.channel import CHANNELS, Channel, DatasourceName

_BRINGING_NETWORK = ", ".join(name for name, c in CHANNELS.items() if c.carries_network)


@dataclass(frozen=True)
class Fit:
    """How a payload stands against one platform's limit."""

    name: DatasourceName
    channel: Channel
    size: int

    @property
    def is_within(self) -> bool:
        return self.channel.size is None or self.size <= self.channel.size


def measure_all(size_gzip: int) -> tuple[Fit, ...]:
    """Hold the size of a compressed payload against every platform."""
    return tuple(Fit(name, c, c.measure(size_gzip)) for name, c in CHANNELS.items())


def the_platform_gives_the_network(cluster: Cluster) -> Iterator[Finding]:
    """Without our network-config a machine comes up by the platform's DHCP.

    Our files for networkd arrive with the user-data, over that very network: a card that they
    describe otherwise would be another one from the second boot on.
    """
    channel = CHANNELS[cluster.datasource]
    if channel.carries_network:
        return
    why = f"{channel.title} gives machines no network configuration of ours"
    if 6 in cluster.network.families:
        yield Finding(
            ("network", "node_cidr"),
            f"IPv6 with datasource {cluster.datasource}: {why}, and nodes ask DHCP for IPv4 alone",
            f"IPv6 needs a datasource that brings it: {_BRINGING_NETWORK}",
        )
    elif cluster.network.addressing != "dhcp":
        yield Finding(
            ("network", "addressing"),
            f"addressing {cluster.network.addressing} with datasource {cluster.datasource}: {why}",
            "take addressing: dhcp, and have the platform give each node its `address`",
        )
    if cluster.network.vlan is not None:
        yield Finding(
            ("network", "vlan"),
            f"vlan {cluster.network.vlan} with datasource {cluster.datasource}: {why}",
            "attach machines to that network on the platform, untagged",
        )
    for index, node in enumerate(cluster.nodes):
        if node.nics:
            yield Finding(
                ("nodes", index, "nics"),
                f"further cards of {node.name} with datasource {cluster.datasource}: {why}",
                f"leave nics out, or take a datasource that brings it: {_BRINGING_NETWORK}",
            )


def the_platform_lets_addresses_move(cluster: Cluster) -> Iterator[Finding]:
    """A virtual address that the network doesn't bring to who holds it never answers."""
    channel = CHANNELS[cluster.datasource]
    if cluster.api.vips and not channel.moves_addresses:
        yield Finding(
            ("api", "vip"),
            f"a virtual address with datasource {cluster.datasource}: the network of "
            f"{channel.title} gives no machine another's address",
            "take the platform's load balancer, and its name in api.extra_sans",
        )


def the_platform_lets_pods_pass(cluster: Cluster) -> Iterator[Finding]:
    """With host-gw the network sees pods' addresses; one that routes by its own table drops them.

    Those of EC2 and OpenStack can be told to let them pass (source_dest_check, allowed_addresses).
    """
    channel = CHANNELS[cluster.datasource]
    if cluster.network.flannel.backend == "host-gw" and not channel.lets_pods_pass:
        yield Finding(
            ("network", "flannel", "backend"),
            f"backend host-gw with datasource {cluster.datasource}: the network of "
            f"{channel.title} brings machines no packets of pods' addresses",
            "take backend: vxlan",
        )


def exposure(cluster: Cluster) -> str | None:
    """Say who else can read the nodes' keys where their user-data goes, if anybody can."""
    channel = CHANNELS[cluster.datasource]
    if not channel.readable or cluster.userdata.protect != "none":
        return None
    return (
        f"note: the user-data of {cluster.name} holds private keys. {channel.title} keeps it, "
        f"readable by {channel.readable}; docs/secrets.md says how to protect it "
        f"(userdata.protect: {'age, url' if channel.carries_network else 'url'})"
    )


DATASOURCE_RULES: tuple[Rule, ...] = (
    the_platform_gives_the_network,
    the_platform_lets_addresses_move,
    the_platform_lets_pods_pass,
)
