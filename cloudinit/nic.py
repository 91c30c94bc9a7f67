# SPDX-License-Identifier: Apache-2.0
"""What may a configuration say of a node's network cards?"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from cloudinit.modeltypes import Address, Interfaces
from kubekiln.config import CIDR, Model, invalid

DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}
"""Every network of a family."""

USUAL_MTU = 1500
"""Ethernet's, which a card has if nobody says otherwise."""

MacAddress = Annotated[str, Field(pattern=r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$")]
# What networkd and netplan both take; 15 characters are the kernel's limit.
InterfaceName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_.*?\[\]-]{1,15}$", examples=["ens3", "en*"])
]
VlanId = Annotated[int, Field(ge=1, le=4094)]
Mtu = Annotated[int, Field(ge=576, le=65535)]


class Route(Model):
    """A network that is reached through a router."""

    to: CIDR
    """The network, or `default`."""
    via: Address
    """The router, in the card's own network of that family."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_routers_family(cls, data: Any) -> Any:
        """Take netplan's `default`, which cloud-init 25.1 with networkd takes for an address."""
        if isinstance(data, dict) and data.get("to") == "default":
            return {**data, "to": DEFAULT_ROUTES[6 if ":" in str(data.get("via")) else 4]}
        return data

    @model_validator(mode="after")
    def _is_of_one_family(self) -> Route:
        if self.to.version != self.via.version:
            raise invalid(
                f"router {self.via} is IPv{self.via.version}, {self.to} is IPv{self.to.version}",
                hint="give a router of the network's family",
                at=("via",),
            )
        return self


class Nic(Model):
    """A further network card of a machine, or a VLAN on one."""

    mac: MacAddress | None = None
    """MAC address of the card; made from the names of cluster and node if neither this, nor
    `interface`, nor `vlan` is given."""
    interface: InterfaceName | None = None
    """Name of the card instead of a MAC address, as for the node's own one."""
    vlan: VlanId | None = None
    """VLAN ID (IEEE 802.1Q) that packets carry on this card; on the node's own one if neither
    `mac` nor `interface` says which."""
    addresses: Interfaces = Field(default=(), alias="address")
    """Its address with prefix length, of any family, or one of each. Without one, and without
    `dhcp`, it is only switched on."""
    dhcp: bool = False
    """Whether it asks for an IPv4 address by DHCP, and for nothing else: no route, no name
    server."""
    mtu: Mtu | None = None
    """Its MTU in bytes; the hypervisor's if not given."""
    routes: tuple[Route, ...] = ()
    """Networks that are reached through it; the default route only if one says so."""

    @property
    def is_own_card(self) -> bool:
        """Whether it is a card of its own, not a VLAN on that of the node network."""
        return self.vlan is None or self.mac is not None or self.interface is not None

    @model_validator(mode="after")
    def _has_one_identity_and_one_address(self) -> Nic:
        refuse_both(self.mac, self.interface)
        if self.addresses and self.dhcp:
            raise invalid(
                "address and dhcp are both given",
                hint="leave out one of them",
                at=("dhcp",),
            )
        return self


def refuse_both(mac: str | None, interface: str | None) -> None:
    """Raise if a card is to be found in two ways: they might mean two cards."""
    if mac is not None and interface is not None:
        raise invalid(
            f"mac {mac} and interface {interface} are both given",
            hint="a card is found by one of them: leave out the other",
            at=("interface",),
        )
