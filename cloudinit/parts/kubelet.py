# SPDX-License-Identifier: Apache-2.0
"""What does the node agent need? (Part: its first certificate, its configuration, unit.)"""

from __future__ import annotations

from cloudinit.credentials import identity
from cloudinit.part import Context, Part, from_template, unit


def render(context: Context) -> Part:
    """Give the kubelet; it renews its client certificate and asks for a serving one by itself."""
    cluster, node = context.cluster, context.node
    configuration = from_template(
        "/var/lib/kubelet/config.yaml",
        {
            "disk": cluster.kubelet.reserved_disk_mib,
            "dns_ip": cluster.network.cluster_dns,
            "domain": cluster.network.domain,
            "max_pods": cluster.kubelet.max_pods,
            "memory": cluster.kubelet.reserved_memory_mib,
            "pod_pids_limit": cluster.kubelet.pod_pids_limit,
        },
        keys=(
            "network.dns_ip",
            "network.domain",
            "kubelet.max_pods",
            "kubelet.pod_pids_limit",
            "kubelet.reserved_disk_mib",
            "kubelet.reserved_memory_mib",
        ),
    )
    user = f"system:node:{node.name}"
    # A file of its own, not the host's: what pods get must not depend on who manages that.
    resolver = from_template(
        "/etc/kubernetes/resolv.conf",
        {"nameservers": cluster.network.nameservers},
        keys=("network.nameservers",),
        mode=0o644,
    )
    environment = from_template(
        "/etc/kubernetes/kubelet.env", {"node_ip": node.address}, keys=("nodes.address",)
    )
    return Part(
        files=(
            *identity(context, "kubelet", user, organization="system:nodes"),
            configuration,
            environment,
            resolver,
            unit("kubelet.service"),
        ),
        units=("kubelet.service",),
    )
