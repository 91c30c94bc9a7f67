# SPDX-License-Identifier: Apache-2.0
"""Can this host run a cluster's machines as its config wants them?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cloudinit.families import name_families
from cloudinit.finding import Finding
from cloudinit.model import Cluster
from cloudinit.rules import located
from kubekiln.errors import ConfigError, Problem
from kubekiln.paths import Project
from pipeline.targets.protocol import Target
from pipeline.targets.record import read_record

_ELSEWHERE = "attach the rendered user-data on a hypervisor"


def check_target(target: Target, project: Project, cluster: Cluster, path: Path) -> None:
    """Raise ConfigError before any work if the machines can't run here, or run elsewhere.

    `path` is (or will be) the cluster's config.
    """
    problems = [
        *target.problems(),
        *located(list(unmet(target, cluster)), path),
        *_made_elsewhere(target, project, cluster),
    ]
    if problems:
        raise ConfigError.of(problems)


def unmet(target: Target, cluster: Cluster) -> Iterator[Finding]:
    """Say what the cluster's config wants of its machines and their network that a target lacks."""
    name, network = target.name, cluster.network
    if len(cluster.nodes) > 1 and not target.joins_machines:
        yield Finding(
            ("nodes",),
            f"{cluster.name} has {len(cluster.nodes)} machines, which would not reach each other "
            f"with target {name}",
            f"run with --target nspawn, or {_ELSEWHERE}",
        )
    if not target.reached_by.intersection(network.families):
        yield Finding(
            ("network", "node_cidr"),
            f"{cluster.name} has addresses of {name_families(network.families)} alone, by which "
            f"target {name} lets nobody reach its API",
            f"run with --target nspawn, {_ELSEWHERE}, or give it an IPv4 network, too",
        )
    if cluster.datasource != "nocloud":
        yield Finding(
            ("datasource",),
            f"{cluster.name} has datasource {cluster.datasource}; target {name} attaches a seed of "
            "NoCloud's",
            "`kubekiln boot` makes machines on a platform; here it takes datasource: nocloud",
        )
    if network.vlan is not None and not target.carries_vlans:
        yield Finding(
            ("network", "vlan"),
            f"target {name} has no network that carries VLAN {network.vlan}, the nodes'",
            f"run with --target qemu, or {_ELSEWHERE} whose network does",
        )
    if network.addressing == "dhcp":
        yield Finding(
            ("network", "addressing"),
            f"target {name} has no network that gives nodes their addresses by DHCP",
            f"{_ELSEWHERE} whose network does",
        )


def _made_elsewhere(target: Target, project: Project, cluster: Cluster) -> Iterator[Problem]:
    for node in cluster.nodes:
        run_dir = project.machines_dir / cluster.name / node.name
        record = read_record(run_dir)
        if record and record.target != target.name:
            yield Problem(
                f"{node.name} is there already as a machine of target {record.target}",
                where=str(run_dir),
                hint=f"`kubekiln down {cluster.name}` removes it, or use --target {record.target}",
            )
