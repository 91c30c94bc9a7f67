# SPDX-License-Identifier: Apache-2.0
"""How do pods reach each other? (Part: flannel as a unit of the node.)"""

from __future__ import annotations

import json

from cloudinit.credentials import identity
from cloudinit.part import Context, Part, from_template, unit

# Where packets of each backend that wraps them go; others send them as they are.
PORTS = {"vxlan": 8472}


def render(context: Context) -> Part:
    """Give flannel; the image turns what it finds out into the CNI configuration."""
    network = context.cluster.network
    backend: dict[str, str | int] = {"Type": network.flannel.backend}
    if network.flannel.backend in PORTS:
        backend["Port"] = network.flannel.port or PORTS[network.flannel.backend]
    if network.flannel.mtu is not None:
        backend["MTU"] = network.flannel.mtu
    # As kube-proxy does. With iptables flannel would start it a dozen times every five seconds.
    document = {"Network": str(network.pod_cidr), "EnableNFTables": True, "Backend": backend}
    settings = from_template(
        "/etc/flannel/net-conf.json",
        {"document": json.dumps(document, indent=1)},
        keys=("network.pod_cidr", "network.flannel"),
        mode=0o644,
    )
    environment = from_template(
        "/etc/flannel/flanneld.env",
        {"node": context.node.name, "node_ip": context.node.address},
        keys=("nodes.name", "nodes.address"),
        mode=0o644,
    )
    return Part(
        files=(
            *identity(context, "flannel", "kubekiln:flannel"),
            environment,
            settings,
            unit("flanneld.service"),
        ),
        units=("flanneld.service",),
    )
