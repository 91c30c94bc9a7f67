# SPDX-License-Identifier: Apache-2.0
"""What may a cluster's configuration say of its networks (the key `network`)?"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any, Literal

from pydantic import Field, model_validator

from cloudinit.families import IPAddress, IPNetwork, families_of, of_family
from cloudinit.modeltypes import (
    DOMAIN,
    Address,
    Addresses,
    BackendName,
    Networks,
    Server,
    is_plain_address,
    listed,
)
from cloudinit.nic import Mtu, VlanId
from kubekiln.config import Model

# What users of NodeLocal DNSCache know it by; link-local, so no route of a network leads elsewhere.
NODE_LOCAL_DNS = ip_address("169.254.20.10")


class Flannel(Model):
    """How pods of different nodes reach each other."""

    backend: BackendName = "vxlan"
    """Encapsulation between nodes; or none (`host-gw`): routes to each other, in one network; or by
    a process (`udp`), slowly: for debugging, and for kernels without VXLAN."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """UDP port of the encapsulation; if not given, 8472 for `vxlan` (the kernel's own), 8285 for
    `udp`. `host-gw` has none."""
    mtu: int | None = Field(default=None, ge=576, le=65535)
    """MTU of the pod network in bytes, for `vxlan` alone; if not given, and with the other backends
    always, that of the node's interface less the encapsulation (`vxlan` 50, `udp` 28)."""


# What a network is, by family, if nothing is said; those of IPv6 are kind's.
_USUAL_NETWORKS = {
    "pod_cidr": {4: "10.244.0.0/16", 6: "fd00:10:244::/56"},
    "service_cidr": {4: "10.96.0.0/16", 6: "fd00:10:96::/112"},
}


class NetworkConfig(Model):
    """The three networks of a cluster: of its nodes, its pods and its services.

    Where one value is asked for, a list of one IPv4 and one IPv6 makes a dual-stack cluster; the
    first family is the primary one.
    """

    node_cidrs: Networks = Field(alias="node_cidr", min_length=1)
    """Network of the nodes; every node's address lies in it. Its families are the cluster's."""
    addressing: Literal["static", "dhcp"] = "static"
    """How a node gets its `address`: written on the node, or by DHCP (IPv4 alone), which must have
    it reserved for the node's MAC address; with any other lease the node stays off."""
    vlan: VlanId | None = None
    """VLAN ID (IEEE 802.1Q) of the node network, where it reaches the machines tagged."""
    gateways: Addresses = Field(default=(), alias="gateway")
    """Default route of the nodes; without one they reach only their own network. With DHCP that
    of the lease is taken."""
    nameservers: tuple[Address, ...] = ()
    """Name servers of the nodes, to which CoreDNS forwards other names; none: an air gap."""
    ntp_servers: tuple[Server, ...] = Field(default=(), examples=[["10.80.0.1"]])
    """Time servers of the nodes (addresses or names); if none is given, those of the lease with
    DHCP, else Debian's (`debian.pool.ntp.org`), which an air gap hasn't."""
    mtu: Mtu | None = None
    """MTU of the nodes' interface in bytes; DHCP's or the hypervisor's if not given."""
    pod_cidrs: Networks = Field(
        default=(ip_network(_USUAL_NETWORKS["pod_cidr"][4]),), alias="pod_cidr", min_length=1
    )
    """Network of all pods; each node gets a part of it. IPv6: fd00:10:244::/56 if not given."""
    node_mask: int = Field(default=24, ge=16, le=28)
    """Prefix length of one node's part of the IPv4 pod network (24: 254 pods)."""
    node_mask_ipv6: int = Field(default=64, ge=48, le=120)
    """Prefix length of one node's part of the IPv6 pod network."""
    service_cidrs: Networks = Field(
        default=(ip_network(_USUAL_NETWORKS["service_cidr"][4]),),
        alias="service_cidr",
        min_length=1,
    )
    """Network of the services' virtual addresses; its first one is the API's. IPv6:
    fd00:10:96::/112 if not given."""
    dns_ips: Addresses = Field(default=(), alias="dns_ip")
    """Address of the cluster's DNS service; the tenth of `service_cidr` if not given."""
    dns_cache: bool = False
    """Whether pods ask a cache on their own node for names (NodeLocal DNSCache, 169.254.20.10),
    which asks the DNS service for those of the cluster and `nameservers` for others."""
    domain: str = Field(default="cluster.local", pattern=DOMAIN)
    """DNS domain of the cluster."""
    flannel: Flannel = Flannel()
    """The pod network's implementation."""
    allow_metadata: bool = False
    """Whether pods may reach the platform's metadata address (169.254.169.254 and its like), where
    user-data and credentials of the machine are; pods in the host's network always may."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_nodes_families(cls, data: Any) -> Any:
        """Let networks that nothing is said of have the families of the nodes' network."""
        said: Any = listed(data.get("node_cidr")) if isinstance(data, dict) else ()
        families = dict.fromkeys(6 if ":" in str(value) else 4 for value in said)
        usual = {key: [of[f] for f in families] for key, of in _USUAL_NETWORKS.items() if families}
        return {**usual, **data} if usual else data

    @property
    def families(self) -> tuple[int, ...]:
        """The cluster's families, 4 and 6, the primary one first."""
        return families_of(self.node_cidrs)

    def networks(self) -> Iterator[tuple[str, IPNetwork]]:
        """Give the networks of all families with the names of their keys."""
        for key, values in (
            ("node_cidr", self.node_cidrs),
            ("pod_cidr", self.pod_cidrs),
            ("service_cidr", self.service_cidrs),
        ):
            yield from ((key, value) for value in values)

    @property
    def service_ips(self) -> tuple[IPAddress, ...]:
        """The addresses of the service `kubernetes` that there may be."""
        return tuple(network[1] for network in self.service_cidrs)

    @property
    def cluster_dns(self) -> tuple[IPAddress, ...]:
        """The addresses of the service `kube-dns`."""
        return tuple(of_family(self.dns_ips, n.version) or n[10] for n in self.service_cidrs)

    @property
    def pod_dns(self) -> IPAddress:
        """The address that pods ask for names; one of two families reaches it by either."""
        return NODE_LOCAL_DNS if self.dns_cache else self.cluster_dns[0]

    @property
    def ntp_addresses(self) -> tuple[IPAddress, ...]:
        """The time servers that are given by address."""
        return tuple(ip_address(one) for one in self.ntp_servers if is_plain_address(one))

    def mask_of(self, family: int) -> int:
        """Give the prefix length of one node's part of a family's pod network."""
        return self.node_mask if family == 4 else self.node_mask_ipv6
