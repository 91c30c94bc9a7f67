# SPDX-License-Identifier: Apache-2.0
"""How do services' addresses work on a node? (Part: kube-proxy with nftables.)"""

from __future__ import annotations

from cloudinit.credentials import identity
from cloudinit.families import joined
from cloudinit.part import Context, Part, from_template, unit


def render(context: Context) -> Part:
    """Give kube-proxy."""
    configuration = from_template(
        "/etc/kubernetes/kube-proxy.yaml",
        {"pod_cidr": joined(context.cluster.network.pod_cidrs)},
        keys=("network.pod_cidr",),
    )
    return Part(
        files=(
            *identity(context, "kube-proxy", "system:kube-proxy"),
            configuration,
            unit("kube-proxy.service"),
        ),
        units=("kube-proxy.service",),
    )
