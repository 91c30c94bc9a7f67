# SPDX-License-Identifier: Apache-2.0
"""What must be there before a cluster can boot, and how are the two halves asked for it?"""

from __future__ import annotations

from dataclasses import dataclass

from cloudinit.model import Cluster
from cloudinit.render import RenderedCluster, render_cluster
from cloudinit.rules import load_cluster
from kubekiln.paths import Project
from pipeline.targets.machine import BootImage


@dataclass(frozen=True)
class Plan:
    """A cluster's configuration and that of its image, which fit each other."""

    cluster: Cluster


def load(project: Project, name: str) -> Plan:
    """Read and check everything; raises ConfigError with all problems before any work."""
    cluster = load_cluster(name, project)
    return Plan(cluster)


def bake_image(project: Project, plan: Plan) -> BootImage:
    """Bake the cluster's image, from the cache if nothing changed."""
    raise NotImplementedError


def render(project: Project, plan: Plan) -> RenderedCluster:
    """Render the cluster's nodes."""
    return render_cluster(plan.cluster, project=project)
