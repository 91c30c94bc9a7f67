# SPDX-License-Identifier: Apache-2.0
"""What does kubeadm need to make a machine part of a cluster? (Part: its configuration, units.)

No token: a machine joins with its own certificate, so nothing expires while it isn't there yet, and
whoever reads a worker's payload has that worker and nothing else.
"""

from __future__ import annotations

from typing import Any

from cloudinit import sizing
from cloudinit.credentials import PKI_DIR, as_kubelet, client_spec, leaf_files
from cloudinit.families import joined
from cloudinit.model import Cluster
from cloudinit.part import Context, NodeFile, Part, from_template, unit
from cloudinit.parts import apiserver, controllers, kubelet
from cloudinit.parts.etcd import MIB

UNIT = "kubekiln-kubeadm.service"
DISCOVERY = "kubeadm-discovery"
_DIRECTORY = "/etc/kubernetes/kubeadm"
_ALGORITHMS = {
    "p256": "ECDSA-P256",
    "p384": "ECDSA-P384",
    "rsa2048": "RSA-2048",
    "rsa3072": "RSA-3072",
    "rsa4096": "RSA-4096",
}
# The first build of etcd's image, as its project names it; see components.yaml.
_ETCD_BUILD = "0"
_MANIFESTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
_PORTS = (2379, 2380, 10250, 10257, 10259)
_POLICIES = ("admission", "audit-policy", "authentication", "encryption")
_NODE_KEYS = ("bootstrap", "nodes.name", "nodes.address", "nodes.labels", "kubelet.pods_on_masters")
_CLUSTER_KEYS = (
    "name", "kubernetes", "api", "etcd", "kubelet", "leader_election", "network", "pki",
    "planned_nodes", "versions",
)  # fmt: skip


def render_single(context: Context) -> Part:
    """Let it make a cluster of one machine."""
    return _part(context, *_of_master(context), _init(context))


def render_master(context: Context) -> Part:
    """Let the first master make the cluster, and the others join it.

    The first one joins as well where there is a cluster already: it lost its disk.
    """
    cluster = context.cluster
    init = (_init(context),) if context.node == cluster.masters[0] else ()
    return _part(context, *_of_master(context), *init, _join(context, is_master=True))


def render_worker(context: Context) -> Part:
    """Let it join a cluster."""
    return _part(context, _join(context, is_master=False))


def _part(context: Context, *files: NodeFile) -> Part:
    user = f"system:node:{context.node.name}"
    spec = client_spec(context, "kubelet", user, organization="system:nodes")
    pair = f"{PKI_DIR}/kubelet"
    return Part(
        files=(
            *files,
            *leaf_files(context, spec, pair),
            as_kubelet(context, DISCOVERY),
            kubelet.resolver(context),
            unit("kubelet.service", template="kubeadm/kubelet.service"),
            unit(UNIT),
        ),
        units=("kubelet.service", UNIT),
    )


def _of_master(context: Context) -> tuple[NodeFile, ...]:
    port = from_template(
        "/etc/kubernetes/kube-apiserver.env",
        {"port": context.cluster.api.port},
        keys=("api.port",),
        template=f"{_DIRECTORY}/kube-apiserver.env",
    )
    return (*apiserver.policies(context), port)


def _init(context: Context) -> NodeFile:
    view = {
        **_registration(context, ignored=_ignored_of_master(context)),
        **kubelet.settings_view(context.cluster),
        **_cluster_view(context),
    }
    return from_template(f"{_DIRECTORY}/init.yaml", view, keys=(*_NODE_KEYS, *_CLUSTER_KEYS))


def _join(context: Context, *, is_master: bool) -> NodeFile:
    ignored = [
        # Ours, and the same as kubeadm would write.
        "FileAvailable--etc-kubernetes-pki-ca.crt",
        "FileAvailable--etc-kubernetes-bootstrap-kubelet.conf",
        "FileAvailable--etc-kubernetes-kubelet.conf",
        *(_ignored_of_master(context) if is_master else ("Port-10250",)),
    ]
    view = {
        **_registration(context, ignored=ignored),
        "discovery": f"/etc/kubernetes/{DISCOVERY}.conf",
        "is_master": is_master,
    }
    return from_template(f"{_DIRECTORY}/join.yaml", view, keys=(*_NODE_KEYS, "api.port"))


def _ignored_of_master(context: Context) -> list[str]:
    """Name the checks that find what an attempt before left, over which the next one goes on; and
    that of the number of CPUs, which is for whoever declares the machine to say."""
    return [
        "NumCPU",
        "DirAvailable--var-lib-etcd",
        *(f"FileAvailable--etc-kubernetes-manifests-{name}.yaml" for name in _MANIFESTS),
        *(f"Port-{port}" for port in (*_PORTS, context.cluster.api.port)),
    ]


def _registration(context: Context, *, ignored: list[str]) -> dict[str, Any]:
    cluster, node = context.cluster, context.node
    # Those of masters are given to them by kubekiln-bootstrap.service, with other rights.
    labels = {} if node.serves_api else node.labels
    return {
        "address": node.address,
        "ignored": ignored,
        "labels": ",".join(f"{key}={value}" for key, value in labels.items()),
        "node": node.name,
        "node_ips": joined(node.addresses),
        "port": cluster.api.port,
        "untainted": not (node.serves_api and cluster.taints_masters),
    }


def _cluster_view(context: Context) -> dict[str, Any]:
    cluster, network = context.cluster, context.cluster.network
    size, election = sizing.size_of(cluster), controllers.election_flags(cluster)
    spec = apiserver.server_spec(context)
    # Written once, for all masters; each adds its own name and address by itself, but not the rest.
    masters = apiserver.names_and_addresses(context, cluster.masters)
    added = {name for node in cluster.masters for name in (node.name, node.address)}
    known = (*spec.dns_names, *masters[0], *spec.addresses, *masters[1])
    names = [str(name) for name in dict.fromkeys(known) if name not in added]
    return {
        "apiserver_flags": _sorted(apiserver.flags_of(cluster)),
        "algorithm": _ALGORITHMS[cluster.pki.algorithm],
        "cluster": cluster.name,
        "controller_flags": _sorted({**size.controller_manager, **election}),
        "endpoint": context.api_url.removeprefix("https://"),
        "etcd_flags": _sorted(_etcd_flags(cluster)),
        "etcd_tag": f"{context.versions['etcd']}-{_ETCD_BUILD}",
        "leaf_hours": cluster.pki.leaf_days * 24,
        "names": names,
        "node_masks": [(family, network.mask_of(family)) for family in network.families],
        "pod_cidr": joined(network.pod_cidrs),
        "policies": _POLICIES,
        "scheduler_flags": _sorted({**_scheduler_rate(size), **election}),
        "service_cidr": joined(network.service_cidrs),
        # kubeadm itself keeps pods off masters.
        "taints": [],
        "version": cluster.kubernetes,
    }


def _scheduler_rate(size: sizing.Size) -> dict[str, str]:
    return {"kube-api-burst": str(size.scheduler_burst), "kube-api-qps": str(size.scheduler_qps)}


def _etcd_flags(cluster: Cluster) -> dict[str, str]:
    return {
        "election-timeout": str(cluster.etcd.election_ms),
        "heartbeat-interval": str(cluster.etcd.heartbeat_ms),
        "quota-backend-bytes": str(sizing.etcd_quota_mib(cluster) * MIB),
    }


def _sorted(flags: sizing.Flags) -> list[tuple[str, str]]:
    return sorted(flags.items())
