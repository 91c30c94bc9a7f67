# SPDX-License-Identifier: Apache-2.0
"""How do pods reach each other? (Part: flannel as a unit of the node.)"""

from __future__ import annotations

import json
from typing import Any

from cloudinit.credentials import as_kubelet
from cloudinit.families import of_family
from cloudinit.flannelbackends import BACKENDS
from cloudinit.model import Node
from cloudinit.networkmodel import NetworkConfig
from cloudinit.part import Context, NodeFile, Part, from_static, from_template, unit


def render(context: Context) -> Part:
    """Give flannel; the image turns what it finds out into the CNI configuration."""
    environment = from_template(
        "/etc/flannel/flanneld.env",
        {"node": context.node.name, **_addresses(context.node)},
        keys=("nodes.name", "nodes.address"),
        mode=0o644,
    )
    return Part(
        files=(
            as_kubelet(context, "flannel"),
            environment,
            _settings(context),
            unit("flanneld.service"),
        ),
        units=("flanneld.service",),
    )


def render_in_pool(context: Context) -> Part:
    """Give flannel to a machine that finds out its own name and address."""
    dropin = from_static("/etc/systemd/system/flanneld.service.d/10-pool.conf")
    return Part(
        files=(
            as_kubelet(context, "flannel"),
            _settings(context),
            unit("flanneld.service"),
            dropin,
        ),
        units=("flanneld.service",),
    )


def _settings(context: Context) -> NodeFile:
    network = context.cluster.network
    return from_template(
        "/etc/flannel/net-conf.json",
        {"document": json.dumps(net_conf(network), indent=1)},
        keys=("network.pod_cidr", "network.flannel"),
        mode=0o644,
    )


def net_conf(network: NetworkConfig) -> dict[str, Any]:
    """Give flannel's own configuration."""
    # As kube-proxy does. With iptables flannel would start it a dozen times every five seconds.
    return {**_networks(network), "EnableNFTables": True, "Backend": _backend(network)}


def _backend(network: NetworkConfig) -> dict[str, str | int]:
    flannel, backend = network.flannel, BACKENDS[network.flannel.backend]
    told: dict[str, str | int] = {"Type": flannel.backend}
    if backend.port is not None:
        told["Port"] = flannel.port or backend.port
    if flannel.mtu is not None:
        # flannel means the packets between the nodes, and subtracts its overhead for the pods.
        told["MTU"] = flannel.mtu + backend.overhead
    return told


def _networks(network: NetworkConfig) -> dict[str, str | bool]:
    """Give the pod network of each family; flannel takes IPv4 for granted."""
    said: dict[str, str | bool] = {}
    pods = {each.version: str(each) for each in network.pod_cidrs}
    if 4 in pods:
        said["Network"] = pods[4]
    else:
        said["EnableIPv4"] = False
    if 6 in pods:
        said |= {"EnableIPv6": True, "IPv6Network": pods[6]}
    return said


def _addresses(node: Node) -> dict[str, object]:
    """Give the address whose interface flannel uses, and the second one in dual stack.

    It looks for the interface by the IPv4 address if there is one, whichever is the primary.
    """
    by_family = [of_family(node.addresses, family) for family in (4, 6)]
    first, *others = [address for address in by_family if address is not None]
    return {"node_ip": first, "public_ipv6": others}
