# SPDX-License-Identifier: Apache-2.0
"""How does a cluster get into (and out of) the kubeconfig that the user's own kubectl reads?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from kubekiln.errors import ConfigError, KubekilnError, Problem
from kubekiln.files import write_atomic
from kubekiln.operations.clusters import find_kubeconfig
from kubekiln.operations.kubeconfigfile import KINDS, opened
from kubekiln.paths import Project, user_kubeconfig


@dataclass(frozen=True)
class Merged:
    """What was merged into which file."""

    context: str
    path: Path
    has_changed: bool
    is_current: bool
    """kubectl takes this context if none is named."""


def merge(project: Project, cluster: str | None, *, use: bool = False) -> Merged:
    """Put a cluster's context into the user's kubeconfig; again and again is as good as once.

    It becomes the current one if there is none, or with `use`. The others are not touched.
    """
    own = find_kubeconfig(project, cluster, usage="kubekiln kubeconfig merge CLUSTER")
    name, path = own.parent.name, user_kubeconfig().absolute()
    if path.resolve().is_relative_to(project.state_dir.resolve()):
        raise ConfigError(
            f"KUBECONFIG is {path}, which is a cluster's own and not yours",
            hint="`unset KUBECONFIG` to merge into ~/.kube/config",
        )
    data = yaml.safe_load(own.read_text())
    with opened(path, str(own.parent)) as file:
        for kind in KINDS:
            for entry in data[kind]:
                file.put(kind, entry)
        context = str(data["current-context"])
        if use or not file.current_context:
            file.current_context = context
        _remember(project, name, path)
        return Merged(context, path, file.save(), file.current_context == context)


def unmerge(project: Project, cluster: str) -> list[Path]:
    """Take a cluster's entries out of every file that has them; gives those changed.

    Raises KubekilnError if one can't be read or written; the others are done, and it is remembered.
    """
    record = _record(project, cluster)
    changed, left, problems = list[Path](), list[Path](), list[Problem]()
    for path in _remembered(record):
        try:
            if path.exists():
                with opened(path, str(project.state_dir / cluster)) as file:
                    file.remove_ours()
                    if file.save():
                        changed.append(path)
        except KubekilnError as error:
            left.append(path)
            problems += error.problems
    if problems:
        write_atomic(record, "".join(f"{p}\n" for p in left), mode=0o600)
        raise KubekilnError.of(problems)
    record.unlink(missing_ok=True)
    return changed


def merged_clusters(project: Project) -> list[str]:
    """Name the clusters that are in some kubeconfig of the user's."""
    return sorted(p.name for p in _record(project, "x").parent.glob("*") if p.is_file())


def _remember(project: Project, cluster: str, path: Path) -> None:
    """Note the file: at `down`, KUBECONFIG may say something else."""
    record = _record(project, cluster)
    known = _remembered(record)
    if path not in known:
        write_atomic(record, "".join(f"{p}\n" for p in [*known, path]), mode=0o600)


def _remembered(record: Path) -> list[Path]:
    return [Path(line) for line in record.read_text().splitlines()] if record.exists() else []


def _record(project: Project, cluster: str) -> Path:
    return project.build_dir / "merged" / cluster
