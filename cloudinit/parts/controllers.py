# SPDX-License-Identifier: Apache-2.0
"""What drives the cluster towards what is wanted? (Part: controller manager and scheduler.)"""

from __future__ import annotations

from cloudinit import sizing
from cloudinit.credentials import PKI_DIR, identity
from cloudinit.families import joined
from cloudinit.part import Context, NodeFile, Part, from_template, unit


def render(context: Context) -> Part:
    """Give the controller manager, with the authority's key to sign kubelets' certificates."""
    signer = NodeFile(
        f"{PKI_DIR}/ca.key",
        context.state.authority("kubernetes").key.reveal(),
        "state: authority kubernetes",
        ("pki.algorithm",),
        mode=0o600,
    )
    return Part(
        files=(
            signer,
            *_identities(context),
            *_settings(context),
            unit("kube-controller-manager.service"),
            unit("kube-scheduler.service"),
        ),
        units=("kube-controller-manager.service", "kube-scheduler.service"),
    )


def _identities(context: Context) -> tuple[NodeFile, ...]:
    # They serve with it too: without a certificate each makes two RSA keys at every start, seconds
    # of an emulated CPU.
    users = {
        "controller-manager": "system:kube-controller-manager",
        "scheduler": "system:kube-scheduler",
    }
    return tuple(
        file
        for use, name in users.items()
        for file in identity(context, use, name, serves_loopback=True, own_api=True)
    )


def _settings(context: Context) -> tuple[NodeFile, NodeFile]:
    network, size = context.cluster.network, sizing.size_of(context.cluster)
    # Electing a leader among one costs a second at start and a write every two afterwards.
    leader_elect = str(len(context.cluster.masters) > 1).lower()
    # One flag a family: the one for both is refused in a dual-stack cluster.
    masks = [f"--node-cidr-mask-size-ipv{f}={network.mask_of(f)}" for f in network.families]
    environment = from_template(
        "/etc/kubernetes/controller-manager.env",
        {
            "cluster": context.cluster.name,
            "leader_elect": leader_elect,
            "node_masks": " ".join(masks),
            "pod_cidr": joined(network.pod_cidrs),
            "service_cidr": joined(network.service_cidrs),
            "size_flags": sizing.command_line(size.controller_manager),
        },
        keys=(
            "name", "network.node_mask", "network.pod_cidr", "network.service_cidr", "nodes",
            "planned_nodes",
        ),
    )  # fmt: skip
    rate = (size.scheduler_qps, size.scheduler_burst)
    scheduler = from_template(
        "/etc/kubernetes/scheduler.yaml",
        {
            "burst": size.scheduler_burst,
            "is_raised": rate != sizing.DEFAULT_SCHEDULER,
            "leader_elect": leader_elect,
            "qps": size.scheduler_qps,
        },
        keys=("nodes", "planned_nodes"),
    )
    return environment, scheduler
