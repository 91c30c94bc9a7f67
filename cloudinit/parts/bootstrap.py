# SPDX-License-Identifier: Apache-2.0
"""What does a cluster need before anything else can work? (Part: permissions and this node.)"""

from __future__ import annotations

from typing import Any

from cloudinit.credentials import identity
from cloudinit.part import Context, NodeFile, Part, from_static, from_template, unit
from kubekiln.yamltext import dump

DIRECTORY = "/etc/kubernetes/bootstrap"
_CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"


def render(context: Context) -> Part:
    """Give the manifests, the unit that applies them with rights that only it has, and the one that
    waits for the roles which the API server makes itself."""
    units = ("kubekiln-bootstrap.service", "kubekiln-roles.service")
    return Part(
        files=(
            *identity(
                context,
                "super-admin",
                "kubernetes-super-admin",
                organization="system:masters",
                own_api=True,
            ),
            from_static(f"{DIRECTORY}/00-rbac.yaml"),
            _node_manifest(context),
            *(unit(name) for name in units),
        ),
        units=units,
    )


def _node_manifest(context: Context) -> NodeFile:
    labels = {_CONTROL_PLANE_LABEL: "", **context.node.labels}
    spec: dict[str, Any] = {}
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": context.node.name,
            "labels": labels,
            # flannel 0.28.9 panics at a Node without any annotation.
            "annotations": {"kubekiln/role": context.node.role},
        },
    }
    if context.cluster.taints_masters:
        # The kubelet gives its taints only to a Node that it makes itself.
        taint = {"key": _CONTROL_PLANE_LABEL, "effect": "NoSchedule"}
        spec["taints"] = [taint]
    if context.node.role == "single":
        # The controller manager would give it the same part, but some seconds later; it takes note
        # of parts that are given.
        network = context.cluster.network
        parts = [
            str(next(pods.subnets(new_prefix=network.mask_of(pods.version))))
            for pods in network.pod_cidrs
        ]
        spec |= {"podCIDR": parts[0], "podCIDRs": parts}
    if spec:
        document["spec"] = spec
    return from_template(
        f"{DIRECTORY}/10-node.yaml",
        {"document": dump(document).rstrip()},
        keys=(
            "nodes.name",
            "nodes.labels",
            "nodes.role",
            "kubelet.pods_on_masters",
            "network.pod_cidr",
            "network.node_mask",
        ),  # fmt: skip
    )
