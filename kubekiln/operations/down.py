# SPDX-License-Identifier: Apache-2.0
"""How are a cluster's machines removed, and what is forgotten with them?"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from cloudinit.staging import discard, rendering
from kubekiln.errors import ConfigError, KubekilnError, Problem
from kubekiln.operations.clusters import changing_machines, machine_dirs
from kubekiln.operations.journal import Journal
from kubekiln.operations.kubeconfig import merged_clusters, unmerge
from kubekiln.paths import Project
from kubekiln.progress import say, step
from pipeline.targets.record import Record, list_records
from pipeline.targets.registry import find_target

_GONE = ("deleted", "refused")


def take_down(project: Project, cluster: str | None) -> list[str]:
    """Stop and remove the machines of a cluster (of all, if none is named), with their disks.

    Image, user-data and state stay. Gives the names of what was removed.
    """
    removed = []
    for name in sorted({r.machine.cluster for r in list_records(project.machines_dir, cluster)}):
        with changing_machines(project, name):
            records = list_records(project.machines_dir, name)
            remove(records)
        removed += [f"{name}/{record.machine.name}" for record in records]
    return removed


def remove(records: Iterable[Record]) -> None:
    """Stop and remove machines, with their disks."""
    for record in records:
        with step(f"Removing {record.machine.cluster}/{record.machine.name}"):
            find_target(record.target).destroy(record.machine)


def forget_contexts(project: Project, cluster: str | None) -> None:
    """Take a cluster's context (or all) out of the user's kubeconfig again.

    Raises KubekilnError for those that can't be, after all others are.
    """
    problems: list[Problem] = []
    for merged in merged_clusters(project):
        if cluster not in (None, merged):
            continue
        try:
            for path in unmerge(project, merged):
                say(f"context {merged} is no longer in {path}")
        except KubekilnError as error:
            problems += error.problems
    if problems:
        raise KubekilnError.of(problems)


def forgettable(project: Project, cluster: str) -> Path:
    """Give the config of a cluster that `up` made.

    Raises ConfigError for one whose config a person wrote: its keys may be all there is; and for
    one with machines on a platform, of which only its state knows.
    """
    path = project.config_path("clusters", cluster)
    if path != project.profile_path(cluster):
        raise ConfigError(
            f"the config of {cluster} is not one that `kubekiln up` made, so its keys stay",
            where=str(path),
            hint=f"remove {project.state_dir / cluster} yourself if you mean it",
        )
    for journal in sorted((project.state_dir / cluster).glob("target-*.journal")):
        nodes = [e.node for e in Journal(journal).last().values() if e.event not in _GONE]
        if nodes:
            target = journal.stem.removeprefix("target-")
            raise ConfigError(
                f"{cluster} has machines on target {target}: {', '.join(nodes)}",
                where=str(journal),
                hint=f"`kubekiln destroy --target {target} --cluster {cluster}` first",
            )
    return path


def forget(project: Project, cluster: str) -> None:
    """Remove the keys, rendered nodes and config of a cluster that `up` made and that is down."""
    with changing_machines(project, cluster), rendering(project, cluster):
        path = forgettable(project, cluster)
        if machine_dirs(project, cluster):
            raise ConfigError(f"{cluster} has machines", hint=f"`kubekiln down {cluster}` first")
        for payloads in (project.nodes_dir, project.keys_dir, project.seeds_dir):
            discard(payloads / cluster)
        if (project.state_dir / cluster).exists():
            shutil.rmtree(project.state_dir / cluster)
        path.unlink()
