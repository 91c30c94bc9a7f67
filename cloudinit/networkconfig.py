# SPDX-License-Identifier: Apache-2.0
"""How does a node get its address? (cloud-init's network-config, version 2)

networkd is told the same by `parts/network.py`, whose files are there before it starts and come
first. cloud-init still needs this: without it, it would ask DHCP on the first card it finds. And of
VLANs cloud-init 25.1 tells networkd nothing.
"""

from __future__ import annotations

from typing import Any

import yaml

from cloudinit.links import Link, links_of
from cloudinit.part import Context

# Written in C it is ten times as fast; PyYAML is built without it on some systems.
Dumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def render_networkconfig(context: Context) -> bytes:
    """Write the configuration of a node's network cards and the VLANs on them."""
    return dump_links(links_of(context.cluster, context.node))


def dump_links(links: tuple[Link, ...]) -> bytes:
    """Write links as network-config; cards and VLANs apart, as it wants them."""
    document: dict[str, Any] = {
        "version": 2,
        "ethernets": {link.name: _card(link) for link in links if link.vlan is None},
    }
    below = {name: link.name for link in links for name in link.vlans}
    vlans = {
        link.name: {"id": link.vlan, "link": below[link.name], **_addressing(link)}
        for link in links
        if link.vlan is not None
    }
    if vlans:
        document["vlans"] = vlans
    return yaml.dump(document, Dumper=Dumper, sort_keys=False).encode()


def _card(link: Link) -> dict[str, Any]:
    if link.mac is None:
        # cloud-init's renderer for networkd matches the key of this entry, others its `match`.
        found: dict[str, Any] = {"match": {"name": link.name}}
    else:
        found = {"match": {"macaddress": link.mac}, "set-name": link.name}
    return found | _addressing(link)


def _addressing(link: Link) -> dict[str, Any]:
    settings: dict[str, Any] = {"dhcp4": link.leased, "dhcp6": False, "accept-ra": False}
    if link.leased:
        settings["dhcp4-overrides"] = (
            {"use-hostname": False}
            if link.leads_out
            else {"use-dns": False, "use-hostname": False, "use-ntp": False, "use-routes": False}
        )
    if link.addresses:
        settings["addresses"] = list(link.addresses)
    if link.routes:
        # Not `to: default`: cloud-init 25.1 with networkd takes that for an address and fails.
        settings["routes"] = [{"to": to, "via": via} for to, via in link.routes]
    if link.nameservers:
        settings["nameservers"] = {"addresses": list(link.nameservers)}
    if link.mtu is not None:
        settings["mtu"] = link.mtu
    if link.optional:
        settings["optional"] = True
    return settings
