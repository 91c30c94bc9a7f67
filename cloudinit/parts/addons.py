# SPDX-License-Identifier: Apache-2.0
"""What is applied to the cluster once its API answers? (Part: permissions, nodes, add-ons.)"""

from __future__ import annotations

from typing import Any

import yaml

from cloudinit.addon import Addon, load_addon
from cloudinit.credentials import identity
from cloudinit.part import Context, NodeFile, Part, from_static, from_template, unit

DIRECTORY = "/etc/kubernetes/addons"
_CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane"


def render(context: Context) -> Part:
    """Give the manifests and the unit that applies them in the order of their names."""
    name = "kubekiln-addons.service"
    return Part(
        files=(
            *identity(
                context, "super-admin", "kubernetes-super-admin", organization="system:masters"
            ),
            from_static(f"{DIRECTORY}/00-rbac.yaml"),
            _node_manifest(context),
            *(_addon_file(context, load_addon(a, context.project)) for a in context.cluster.addons),
            unit(name),
        ),
        units=(name,),
    )


def _node_manifest(context: Context) -> NodeFile:
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": context.node.name,
            "labels": {_CONTROL_PLANE_LABEL: "", **context.node.labels},
        },
    }
    return from_template(
        f"{DIRECTORY}/10-node.yaml",
        {"document": yaml.safe_dump(document).rstrip()},
        keys=("nodes.name", "nodes.labels"),
    )


def _addon_file(context: Context, addon: Addon) -> NodeFile:
    network = context.cluster.network
    view: dict[str, Any] = {
        "cluster": context.cluster.name,
        "dns_ip": str(network.cluster_dns),
        "domain": network.domain,
        "nameservers": [str(address) for address in network.nameservers],
        "nodes": len(context.cluster.nodes),
        "pod_cidr": str(network.pod_cidr),
        "service_cidr": str(network.service_cidr),
        "versions": context.versions,
    }
    header = f"# Written by cloud-init from {addon.source}; edit that, not this file.\n"
    return NodeFile(
        f"{DIRECTORY}/50-{addon.name}.yaml",
        (header + addon.render(view)).encode(),
        addon.source,
        ("addons", "network", "versions"),
        mode=0o600,
    )
