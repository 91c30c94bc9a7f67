# SPDX-License-Identifier: Apache-2.0
"""How does a cluster that runs learn of nodes that were declared later?

Masters know those that they were rendered with, and look here before they refuse any other one its
serving certificate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from cloudinit.model import Cluster
from cloudinit.parts.approver import declared_nodes
from kubekiln.errors import KubekilnError
from kubekiln.operations.kubectl import admin_for
from kubekiln.paths import Project
from kubekiln.progress import say
from pipeline.targets.machine import Machine
from pipeline.targets.protocol import Target
from pipeline.targets.record import read_record


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


def announce_new(
    project: Project, cluster: Cluster, target: Target, machines: Sequence[Machine]
) -> None:
    """Give the list to a cluster that runs before machines are made which it may not know.

    If its API doesn't take it, that is said, and is no error: what runs may be a worker alone, and
    the masters be booted next.
    """
    there = [machine for machine in machines if read_record(machine.run_dir)]
    runs = any(target.status(machine).state == "running" for machine in there)
    if not runs or len(there) == len(machines):
        return
    try:
        say(apply_nodes(project, cluster))
    except KubekilnError as error:
        command = f"kubekiln cluster nodes {cluster.name} --apply"
        say(f"note: the masters weren't told of new nodes, `{command}` does it: {error}")
