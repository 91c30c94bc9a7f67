# SPDX-License-Identifier: Apache-2.0
"""What changes in the control plane with the number of nodes? (THE table: size → settings.)

Why each value is what it is, and who says so, stands in docs/large-clusters.md, whose table a test
compares with this one. What is in no row is the component's own default at every size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cloudinit.model import Cluster, Node
from cloudinit.nodepool import NodePool, Taint

Flags = Mapping[str, str]


@dataclass(frozen=True)
class Machine:
    """A machine that is large enough; advice, nothing checks it."""

    cpus: int
    memory_gib: int


@dataclass(frozen=True)
class Size:
    """What a cluster of up to so many nodes gets."""

    nodes: int
    master: Machine
    """With its own member of etcd; the masters share the load, but each must carry it alone."""
    etcd: Machine
    """With nothing but etcd on it."""
    etcd_quota_mib: int
    has_events_apart: bool
    """Whether events have a database of their own, unless `etcd.events` says otherwise."""
    apiserver: Flags
    controller_manager: Flags
    scheduler_qps: int
    scheduler_burst: int
    dns_memory_mib: int


_UP_TO_10 = Size(
    nodes=10,
    master=Machine(2, 8),
    etcd=Machine(2, 8),
    etcd_quota_mib=4096,
    has_events_apart=False,
    apiserver={},
    controller_manager={"kube-api-burst": "200", "kube-api-qps": "100"},
    scheduler_qps=50,
    scheduler_burst=100,
    dns_memory_mib=170,
)
_UP_TO_50 = replace(_UP_TO_10, nodes=50, master=Machine(4, 16))
_UP_TO_100 = replace(_UP_TO_50, nodes=100, master=Machine(8, 32), etcd=Machine(4, 16))
_UP_TO_500 = replace(_UP_TO_100, nodes=500, master=Machine(16, 64), etcd=Machine(8, 32))
_UP_TO_1000 = replace(
    _UP_TO_500,
    nodes=1000,
    master=Machine(32, 128),
    has_events_apart=True,
    apiserver={
        "delete-collection-workers": "16",
        "etcd-compaction-interval": "150s",
        "max-mutating-requests-inflight": "500",
        "max-requests-inflight": "1500",
    },
    scheduler_qps=100,
)
_UP_TO_3000 = replace(
    _UP_TO_1000,
    nodes=3000,
    etcd=Machine(16, 64),
    etcd_quota_mib=8192,
    controller_manager={
        "concurrent-deployment-syncs": "50",
        "concurrent-endpoint-syncs": "15",
        "concurrent-gc-syncs": "30",
        "concurrent-namespace-syncs": "30",
        "concurrent-replicaset-syncs": "50",
        "concurrent-resource-quota-syncs": "15",
        "concurrent-service-endpoint-syncs": "15",
        "concurrent-serviceaccount-token-syncs": "15",
        "concurrent-statefulset-syncs": "15",
        "endpointslice-updates-batch-period": "500ms",
        "kube-api-burst": "500",
        "kube-api-qps": "500",
    },
    scheduler_qps=500,
    scheduler_burst=500,
    dns_memory_mib=340,
)
_UP_TO_5000 = replace(
    _UP_TO_3000,
    nodes=5000,
    apiserver={
        **_UP_TO_3000.apiserver,
        "max-mutating-requests-inflight": "1000",
        "max-requests-inflight": "3000",
    },
)
SIZES = (_UP_TO_10, _UP_TO_50, _UP_TO_100, _UP_TO_500, _UP_TO_1000, _UP_TO_3000, _UP_TO_5000)

# Of a scheduler of which nothing is said.
DEFAULT_SCHEDULER = (50, 100)
# Fewer nodes than this spread over masters well enough when they connect.
_REBALANCED_FROM = 100
_GOAWAY_CHANCE = "0.001"
# As Kubernetes' own autoscaler of DNS has it.
_NODES_PER_DNS_REPLICA = 16
# Taints in spite of which configs/addons/coredns.yaml runs: key, value and effect; None: any.
DNS_TOLERATES = (
    ("CriticalAddonsOnly", None, None),
    ("node-role.kubernetes.io/control-plane", "", "NoSchedule"),
)


def size_of(cluster: Cluster) -> Size:
    """Give the row for the nodes that the cluster has, or is to have; beyond the last one, that."""
    count = cluster.sized_for
    return next((size for size in SIZES if count <= size.nodes), SIZES[-1])


def has_events_apart(cluster: Cluster) -> bool:
    """Tell whether events have an etcd of their own."""
    wanted = cluster.etcd.events
    return size_of(cluster).has_events_apart if wanted == "auto" else wanted


def etcd_quota_mib(cluster: Cluster) -> int:
    """Give the size at which the database refuses writes."""
    return cluster.etcd.quota_mib or size_of(cluster).etcd_quota_mib


def apiserver_flags(cluster: Cluster) -> Flags:
    """Give the API server's flags; one that is alone has nobody to send clients to."""
    flags = size_of(cluster).apiserver
    if len(cluster.masters) > 1 and cluster.sized_for > _REBALANCED_FROM:
        return {**flags, "goaway-chance": _GOAWAY_CHANCE}
    return flags


def dns_replicas(cluster: Cluster) -> int:
    """Give the number of name servers: two, so that one can go, and more with the nodes.

    A pool counts as one node, one whose taints keep them off and planned nodes as none: servers
    without a machine would wait for ever, as no two of them are on one node, and updates with them.
    """
    count = sum(_takes_dns(owner) for owner in cluster.payloads)
    return 1 if count == 1 else max(2, -(-count // _NODES_PER_DNS_REPLICA))


def _takes_dns(owner: Node | NodePool) -> bool:
    # Those of masters are tolerated, and declared workers have none.
    taints = owner.taints if isinstance(owner, NodePool) else ()
    return owner.runs_pods and not any(_keeps_dns_off(taint) for taint in taints)


def _keeps_dns_off(taint: Taint) -> bool:
    is_tolerated = any(
        key == taint.key and value in (None, taint.value) and effect in (None, taint.effect)
        for key, value, effect in DNS_TOLERATES
    )
    return taint.effect != "PreferNoSchedule" and not is_tolerated


def command_line(flags: Flags) -> str:
    """Write flags as a unit's environment file has them: words, in order."""
    return " ".join(f"--{name}={value}" for name, value in sorted(flags.items()))
