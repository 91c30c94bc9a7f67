# SPDX-License-Identifier: Apache-2.0
"""What does the node agent need? (Part: how it shows who it is, its configuration, unit.)"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cloudinit.credentials import identity, kubeconfig_file
from cloudinit.families import joined
from cloudinit.model import Cluster
from cloudinit.nodepool import LABEL, Taint
from cloudinit.part import Context, NodeFile, Part, from_static, from_template, unit

TOKEN_PATH = "/etc/kubernetes/bootstrap-token"  # noqa: S105 - a path
_UNIT = "kubelet.service"
# Of TLS 1.2, in the order of their names; units have the same. Those of 1.3 can't be chosen.
_CIPHER_SUITES = (
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
)
_MASTERS_TAINT = {"effect": "NoSchedule", "key": "node-role.kubernetes.io/control-plane"}


def render(context: Context) -> Part:
    """Give the kubelet; it renews its client certificate and asks for a serving one by itself."""
    user = f"system:node:{context.node.name}"
    labels = {} if context.node.serves_api else context.node.labels
    settings = {"NODE_IP": joined(context.node.addresses), "NODE_LABELS": _listed(labels)}
    environment = from_template(
        "/etc/kubernetes/kubelet.env",
        {"settings": settings},
        keys=("nodes.address", "nodes.labels"),
    )
    tainted = context.node.serves_api and context.cluster.taints_masters
    return Part(
        files=(
            *identity(context, "kubelet", user, organization="system:nodes"),
            _configuration(context, [_MASTERS_TAINT] if tainted else []),
            environment,
            resolver(context),
            unit(_UNIT),
        ),
        units=(_UNIT,),
    )


def render_in_pool(context: Context) -> Part:
    """Give a kubelet that asks for its first certificate, too, by the pool's token."""
    pool = context.pool
    token = context.state.token(pool.name, hours=pool.token_ttl_hours)
    secret = NodeFile(
        TOKEN_PATH,
        token.whole.reveal() + b"\n",
        f"state: token {pool.name}",
        ("pools.token_ttl_hours",),
        mode=0o600,
    )
    environment = from_template(
        "/etc/kubernetes/kubelet.env",
        {"settings": {"NODE_LABELS": _listed({LABEL: pool.name, **pool.labels})}},
        keys=("pools.name", "pools.labels"),
    )
    return Part(
        files=(
            secret,
            kubeconfig_file(
                context, "bootstrap-kubelet", {"tokenFile": TOKEN_PATH}, server=context.api_url
            ),
            _configuration(context, [_written(taint) for taint in pool.taints]),
            environment,
            resolver(context),
            unit(_UNIT),
            from_static(f"/etc/systemd/system/{_UNIT}.d/10-pool.conf"),
        ),
        units=(_UNIT,),
    )


def _listed(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())


def _written(taint: Taint) -> dict[str, str]:
    value = {"value": json.dumps(taint.value)} if taint.value else {}
    return {"effect": taint.effect, "key": json.dumps(taint.key), **value}


def resolver(context: Context) -> NodeFile:
    """Give the name servers of pods that use the node's."""
    # A file of its own, not the host's: what pods get must not depend on who manages that.
    return from_template(
        "/etc/kubernetes/resolv.conf",
        {"nameservers": context.cluster.network.nameservers},
        keys=("network.nameservers",),
        mode=0o644,
    )


def settings_view(cluster: Cluster) -> dict[str, Any]:
    """Give what is the same for every kubelet of a cluster."""
    network, settings = cluster.network, cluster.kubelet
    return {
        "cipher_suites": _CIPHER_SUITES,
        "disk": settings.reserved_disk_mib,
        "dns_ip": network.pod_dns,
        "domain": network.domain,
        "max_pods": settings.max_pods,
        "memory": settings.reserved_memory_mib,
        "pod_pids_limit": settings.pod_pids_limit,
    }


def _configuration(context: Context, taints: Sequence[Mapping[str, str]]) -> NodeFile:
    view = {**settings_view(context.cluster), "taints": taints}
    keys = (
        "network.dns_cache" if context.cluster.network.dns_cache else "network.dns_ip",
        "network.domain",
        "kubelet.max_pods",
        "kubelet.pod_pids_limit",
        "kubelet.pods_on_masters",
        "kubelet.reserved_disk_mib",
        "kubelet.reserved_memory_mib",
    )
    return from_template("/var/lib/kubelet/config.yaml", view, keys=keys)
