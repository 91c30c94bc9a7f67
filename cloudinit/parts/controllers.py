# SPDX-License-Identifier: Apache-2.0
"""What drives the cluster towards what is wanted? (Part: controller manager and scheduler.)"""

from __future__ import annotations

from cloudinit import sizing
from cloudinit.credentials import PKI_DIR, identity
from cloudinit.electionmodel import LeaderElection
from cloudinit.families import joined
from cloudinit.model import Cluster
from cloudinit.part import Context, NodeFile, Part, from_template, unit

# What they are told only if it isn't their own default.
_DEFAULTS = LeaderElection()


def election_flags(cluster: Cluster) -> sizing.Flags:
    """Give the flags of both for how they elect a leader; none for their own defaults."""
    settings = cluster.leader_election
    if settings == _DEFAULTS:
        return {}
    return {
        "leader-elect-lease-duration": f"{settings.lease_s}s",
        "leader-elect-renew-deadline": f"{settings.renew_s}s",
        "leader-elect-retry-period": f"{settings.retry_s}s",
    }


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
    # Electing a leader among one costs a second at start and a write every two afterwards.
    elects = str(len(context.cluster.masters) > 1).lower()
    return _of_controller_manager(context, elects), _of_scheduler(context, elects)


def _of_controller_manager(context: Context, elects: str) -> NodeFile:
    cluster, network = context.cluster, context.cluster.network
    # One flag a family: the one for both is refused in a dual-stack cluster.
    masks = [f"--node-cidr-mask-size-ipv{f}={network.mask_of(f)}" for f in network.families]
    return from_template(
        "/etc/kubernetes/controller-manager.env",
        {
            "cluster": cluster.name,
            "leader_election": sizing.command_line(
                {"leader-elect": elects, **election_flags(cluster)}
            ),
            "node_masks": " ".join(masks),
            "pod_cidr": joined(network.pod_cidrs),
            "service_cidr": joined(network.service_cidrs),
            "size_flags": sizing.command_line(sizing.size_of(cluster).controller_manager),
        },
        keys=(
            "leader_election", "name", "network.node_mask", "network.pod_cidr",
            "network.service_cidr", "nodes", "planned_nodes",
        ),
    )  # fmt: skip


def _of_scheduler(context: Context, elects: str) -> NodeFile:
    size, election = sizing.size_of(context.cluster), context.cluster.leader_election
    rate = (size.scheduler_qps, size.scheduler_burst)
    return from_template(
        "/etc/kubernetes/scheduler.yaml",
        {
            "burst": size.scheduler_burst,
            "election": None if election == _DEFAULTS else election,
            "is_raised": rate != sizing.DEFAULT_SCHEDULER,
            "leader_elect": elects,
            "qps": size.scheduler_qps,
        },
        keys=("leader_election", "nodes", "planned_nodes"),
    )
