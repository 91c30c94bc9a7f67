# SPDX-License-Identifier: Apache-2.0
"""How does a cluster that runs learn of nodes that were declared later?

Masters know those that they were rendered with, and look here before they refuse any other one its
serving certificate.
"""

from __future__ import annotations

import json

from cloudinit.model import Cluster
from cloudinit.parts.approver import declared_nodes
from kubekiln.operations.kubectl import admin_for
from kubekiln.paths import Project


def manifest(cluster: Cluster) -> str:
    """Write the declared nodes as the object that masters read (csr_declared.py)."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kubekiln-nodes", "namespace": "kube-system"},
            "data": {"nodes": json.dumps(declared_nodes(cluster), indent=1)},
        },
        indent=1,
    )


def apply_nodes(project: Project, cluster: Cluster) -> str:
    """Give the list to the cluster's API; what it says."""
    admin = admin_for(project, cluster, usage="kubekiln cluster nodes CLUSTER --apply")
    return admin.apply(manifest(cluster).encode())
