# SPDX-License-Identifier: Apache-2.0
"""How does each of flannel's backends carry packets, and which settings does that leave?

Ports and overheads are those of flannel's own source; a setting that a backend would ignore without
a word is a finding here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cloudinit.families import SMALLEST_MTU, name_families
from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster
from cloudinit.modeltypes import BackendName
from cloudinit.nic import USUAL_MTU


@dataclass(frozen=True)
class Backend:
    """What one backend does to a packet between two nodes."""

    port: int | None
    """UDP port on every node; None: it wraps nothing."""
    overhead: int
    """Bytes that it puts before each packet."""
    takes_mtu: bool = False
    """Whether flannel can be told an MTU; else pods get that of the nodes less the overhead."""
    carries_ipv6: bool = True
    starts_without_ipv4: bool = True


BACKENDS: Mapping[BackendName, Backend] = {
    # 14 Ethernet, 20 IP, 8 UDP, 8 VXLAN; the port is the kernel's, not IANA's 4789.
    "vxlan": Backend(port=8472, overhead=50, takes_mtu=True),
    # Seen with 0.28.9 and IPv6 alone: it takes the node for one behind NAT (its IPv6 address isn't
    # the public one that nobody gave it), and ends.
    "host-gw": Backend(port=None, overhead=0, starts_without_ipv4=False),
    # 20 IP, 8 UDP; by a process of its own that reads and writes /dev/net/tun.
    "udp": Backend(port=8285, overhead=28, carries_ipv6=False),
}


def flannel_is_told_what_it_uses(cluster: Cluster) -> Iterator[Finding]:
    """No family or setting that the backend would ignore."""
    flannel, at = cluster.network.flannel, ("network", "flannel")
    name, mtu, backend = flannel.backend, flannel.mtu, BACKENDS[flannel.backend]
    if 6 in cluster.network.families and not backend.carries_ipv6:
        yield Finding((*at, "backend"), f"{name} carries IPv4 alone", "take backend: vxlan")
    if 4 not in cluster.network.families and not backend.starts_without_ipv4:
        what = f"{name} doesn't start on nodes without IPv4"
        yield Finding((*at, "backend"), what, "take backend: vxlan, or give nodes IPv4, too")
    if flannel.port is not None and backend.port is None:
        yield Finding(
            (*at, "port"),
            f"port {flannel.port} is given, but {name} wraps no packets",
            "leave it out, or take backend: vxlan",
        )
    if mtu is not None and not backend.takes_mtu:
        yield Finding(
            (*at, "mtu"),
            f"mtu {mtu} is given, but {name} always takes the nodes' less {backend.overhead} bytes",
            f"leave it out, or give network.mtu: {mtu + backend.overhead}",
        )


def pods_have_room_in_the_nodes_packets(cluster: Cluster) -> Iterator[Finding]:
    """What a pod sends fits, with the backend's bytes before it, into what a node sends.

    Of an MTU that DHCP gives nothing is known.
    """
    flannel, leased = cluster.network.flannel, cluster.network.addressing == "dhcp"
    nodes_mtu = cluster.network.mtu or (None if leased else USUAL_MTU)
    backend = BACKENDS[flannel.backend]
    smallest = max(SMALLEST_MTU[family] for family in cluster.network.families)
    if flannel.mtu and backend.takes_mtu and flannel.mtu < smallest:
        yield Finding(
            ("network", "flannel", "mtu"),
            f"mtu {flannel.mtu} is less than the {smallest} bytes that every link of "
            f"{name_families(cluster.network.families)} must carry",
            f"give {smallest} or more, or leave it out",
        )
    if nodes_mtu is None or (flannel.mtu and not backend.takes_mtu):
        return
    pods = max(flannel.mtu or 0, smallest)
    if pods + backend.overhead > nodes_mtu:
        yield Finding(
            ("network", "flannel", "mtu") if flannel.mtu else ("network", "mtu"),
            f"{backend.overhead} bytes of {flannel.backend} and {pods} of pods are more than the "
            f"nodes' mtu {nodes_mtu}",
            f"give network.mtu: {pods + backend.overhead} or more",
        )


FLANNEL_RULES: tuple[Rule, ...] = (
    flannel_is_told_what_it_uses,
    pods_have_room_in_the_nodes_packets,
)
