# SPDX-License-Identifier: Apache-2.0
"""How do services' addresses work on a node? (Part: kube-proxy with nftables.)"""

from __future__ import annotations

from cloudinit.credentials import as_kubelet
from cloudinit.families import joined
from cloudinit.part import Context, NodeFile, Part, from_static, from_template, unit


def render(context: Context) -> Part:
    """Give kube-proxy."""
    return Part(
        files=(
            as_kubelet(context, "kube-proxy"),
            _configuration(context),
            unit("kube-proxy.service"),
        ),
        units=("kube-proxy.service",),
    )


def render_in_pool(context: Context) -> Part:
    """Give kube-proxy to a machine whose kubelet has yet to get its certificate."""
    part = render(context)
    dropin = from_static("/etc/systemd/system/kube-proxy.service.d/10-pool.conf")
    return Part(files=(*part.files, dropin), units=part.units)


def _configuration(context: Context) -> NodeFile:
    return from_template(
        "/etc/kubernetes/kube-proxy.yaml",
        {"pod_cidr": joined(context.cluster.network.pod_cidrs)},
        keys=("network.pod_cidr",),
    )
