# SPDX-License-Identifier: Apache-2.0
"""How does a node find its network again after a reboot? (Part: the interface by its MAC address.)

The first boot is configured by network-config, of which cloud-init makes a file that also names the
interface. Another slot or another kernel gives another name; this file takes precedence from then
on and has no name in it.
"""

from __future__ import annotations

from cloudinit.part import Context, Part, from_template


def render(context: Context) -> Part:
    """Give networkd's own configuration; it reads it as a user of its own, hence the mode."""
    network = context.cluster.network
    view = {
        "address": context.cluster.interface_of(context.node),
        "gateways": [network.gateway] if network.gateway is not None else [],
        "mac": context.cluster.mac_of(context.node),
        "mtus": [network.mtu] if network.mtu is not None else [],
        "nameservers": network.nameservers,
    }
    keys = (
        "nodes.mac", "nodes.address", "network.node_cidr", "network.gateway",
        "network.nameservers", "network.mtu",
    )  # fmt: skip
    path = "/etc/systemd/network/05-kubekiln.network"
    return Part((from_template(path, view, keys=keys, mode=0o644),))
