# SPDX-License-Identifier: Apache-2.0
"""How does a node get its address? (cloud-init's network-config, version 2)"""

from __future__ import annotations

from typing import Any

import yaml

from cloudinit.part import Context

# The interface is found by its MAC address. The name is there for cloud-init's networkd renderer,
# which writes one into [Match] in any case; parts/network.py does without from the second boot on.
INTERFACE = "eth0"
# Written in C it is ten times as fast; PyYAML is built without it on some systems.
Dumper: type[yaml.SafeDumper] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def render_networkconfig(context: Context) -> bytes:
    """Write a static configuration of the one interface that has the node's MAC address."""
    network = context.cluster.network
    interface: dict[str, Any] = {
        "match": {"macaddress": context.cluster.mac_of(context.node)},
        "set-name": INTERFACE,
        "dhcp4": False,
        "dhcp6": False,
        "accept-ra": False,
        "addresses": [str(context.cluster.interface_of(context.node))],
    }
    if network.gateway is not None:
        # Not `to: default`: cloud-init 25.1 with networkd takes that for an address and fails.
        interface["routes"] = [{"to": "0.0.0.0/0", "via": str(network.gateway)}]
    if network.nameservers:
        interface["nameservers"] = {"addresses": [str(a) for a in network.nameservers]}
    if network.mtu is not None:
        interface["mtu"] = network.mtu
    document = {"version": 2, "ethernets": {INTERFACE: interface}}
    return yaml.dump(document, Dumper=Dumper, sort_keys=False).encode()
