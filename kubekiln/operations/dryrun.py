# SPDX-License-Identifier: Apache-2.0
"""What would `up` do? (Answered without doing any of it: nothing is written or started.)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloudinit.model import Cluster, Node
from cloudinit.render import check_state
from kubekiln.operations.placement import check_target
from kubekiln.operations.prepare import Plan, fit
from kubekiln.operations.profile import Profile
from kubekiln.paths import Project, user_kubeconfig
from pipeline.forecast import Step, forecast_bake
from pipeline.stages.preflight import preflight
from pipeline.targets.protocol import Target
from pipeline.targets.record import read_record
from pipeline.targets.registry import find_target

_SEED = "{user-data,meta-data,network-config,seed.iso}"


@dataclass(frozen=True)
class PlannedNode:
    """A node, and what would happen to its machine."""

    node: Node
    action: str


@dataclass(frozen=True)
class PlannedFile:
    """A file or directory that would be written, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class UpPlan:
    """Everything that `up` would do."""

    cluster: Cluster
    target: str
    steps: tuple[Step, ...]
    nodes: tuple[PlannedNode, ...]
    files: tuple[PlannedFile, ...]


def plan_up(
    project: Project, profile: Profile, *, target_name: str, merges_kubeconfig: bool = False
) -> UpPlan:
    """Plan `up`; raises what `up` would raise before any work."""
    target, cluster = find_target(target_name), profile.cluster
    plan = check_up(project, profile, target_name=target_name)
    return UpPlan(
        cluster,
        target_name,
        forecast_bake(plan.image, project=project, lock=plan.lock),
        tuple(PlannedNode(n, _action(project, target, cluster, n)) for n in cluster.nodes),
        tuple(_files(project, profile, merges_kubeconfig=merges_kubeconfig)),
    )


def check_up(project: Project, profile: Profile, *, target_name: str) -> Plan:
    """Raise what `up` would raise before any work; writes nothing, not even the profile."""
    plan = fit(project, profile.cluster, profile.path)
    check_target(find_target(target_name), project, profile.cluster, profile.path)
    preflight(plan.image, project=project, lock=plan.lock)
    check_state(profile.cluster, project)
    return plan


def _action(project: Project, target: Target, cluster: Cluster, node: Node) -> str:
    record = read_record(project.machines_dir / cluster.name / node.name)
    if record is None:
        return "made and booted"
    if target.status(record.machine).state == "running":
        return "runs already"
    return "booted again, with its disk"


def _files(project: Project, profile: Profile, *, merges_kubeconfig: bool) -> list[PlannedFile]:
    name = profile.cluster.name
    files = []
    if profile.text is not None:
        why = "changed" if profile.path.exists() else "new"
        files.append(PlannedFile(profile.path, f"the config that these options make: {why}"))
    state = project.state_dir / name
    why = "keys and certificates, as before" if state.is_dir() else "keys and certificates: new"
    files.append(PlannedFile(state, why))
    for node in profile.cluster.nodes:
        files.append(PlannedFile(project.nodes_dir / name / node.name / _SEED, "the node's seed"))
        run_dir = project.machines_dir / name / node.name
        if read_record(run_dir) is None:
            files.append(PlannedFile(run_dir, "the machine: disk, console, record"))
    if merges_kubeconfig:
        files.append(PlannedFile(user_kubeconfig(), f"context {name}"))
    return files
