# SPDX-License-Identifier: Apache-2.0
"""What does the node agent need? (Part: its first certificate, its configuration, unit.)"""

from __future__ import annotations

from cloudinit.credentials import identity
from cloudinit.families import joined
from cloudinit.part import Context, NodeFile, Part, from_template, unit


def render(context: Context) -> Part:
    """Give the kubelet; it renews its client certificate and asks for a serving one by itself."""
    user = f"system:node:{context.node.name}"
    # A file of its own, not the host's: what pods get must not depend on who manages that.
    resolver = from_template(
        "/etc/kubernetes/resolv.conf",
        {"nameservers": context.cluster.network.nameservers},
        keys=("network.nameservers",),
        mode=0o644,
    )
    labels = {} if context.node.serves_api else context.node.labels
    environment = from_template(
        "/etc/kubernetes/kubelet.env",
        {
            "labels": ",".join(f"{key}={value}" for key, value in labels.items()),
            "node_ip": joined(context.node.addresses),
        },
        keys=("nodes.address", "nodes.labels"),
    )
    return Part(
        files=(
            *identity(context, "kubelet", user, organization="system:nodes"),
            _configuration(context),
            environment,
            resolver,
            unit("kubelet.service"),
        ),
        units=("kubelet.service",),
    )


def _configuration(context: Context) -> NodeFile:
    network, settings = context.cluster.network, context.cluster.kubelet
    view = {
        "disk": settings.reserved_disk_mib,
        # A pod of two families reaches it by either.
        "dns_ip": network.cluster_dns[0],
        "domain": network.domain,
        "max_pods": settings.max_pods,
        "memory": settings.reserved_memory_mib,
        "pod_pids_limit": settings.pod_pids_limit,
        "tainted": context.node.serves_api and context.cluster.taints_masters,
    }
    keys = (
        "network.dns_ip",
        "network.domain",
        "kubelet.max_pods",
        "kubelet.pod_pids_limit",
        "kubelet.pods_on_masters",
        "kubelet.reserved_disk_mib",
        "kubelet.reserved_memory_mib",
    )
    return from_template("/var/lib/kubelet/config.yaml", view, keys=keys)
