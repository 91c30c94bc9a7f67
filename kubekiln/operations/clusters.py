# SPDX-License-Identifier: Apache-2.0
"""Which clusters does this project have, and which one is meant if none is named?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubekiln.errors import ConfigError
from kubekiln.files import is_there, list_dir, locked
from kubekiln.paths import Project, is_path
from kubekiln.progress import waits

if TYPE_CHECKING:
    from cloudinit.model import Cluster

KUBECONFIG = "admin.kubeconfig"


@dataclass(frozen=True)
class Known:
    """A cluster that has a config."""

    name: str
    path: Path
    is_profile: bool
    """`up` wrote the config, from its options."""
    cluster: Cluster | None
    """None if the config is wrong."""
    machines: int


def known_clusters(project: Project) -> list[Known]:
    """Read every cluster's config; one that is wrong is listed without its contents."""
    found = []
    for name in project.config_names("clusters"):
        path = project.config_path("clusters", name)
        is_profile = path == project.profile_path(name)
        machines = len(machine_dirs(project, name))
        found.append(Known(name, path, is_profile, _load(project, name), machines))
    return found


def machine_dirs(project: Project, cluster: str) -> list[Path]:
    """List the directories of a cluster's machines."""
    return sorted(p.parent for p in (project.machines_dir / cluster).glob("*/machine.json"))


@contextlib.contextmanager
def changing_machines(project: Project, cluster: str) -> Iterator[None]:
    """Be the only one who boots or removes a cluster's machines here; waits for its turn."""
    lock = project.machines_dir / f".{cluster}.lock"
    with locked(lock, waiting=waits(f"another kubekiln boots or removes {cluster}'s machines")):
        yield


def cluster_name(project: Project, given: str) -> str:
    """Give the name of a cluster that may be given by the path of its config.

    A name is taken as it is: what is left of a cluster may have no config. Raises ConfigError if
    there is no such file, or if it is wrong.
    """
    from cloudinit.rules import load_cluster

    return load_cluster(given, project).name if is_path(given) else given


def config_named(given: str | None, name: str) -> str:
    """Give what finds the config of a cluster: its path if it was given by it, else its name.

    A config may lie anywhere; a name leads to those of the project.
    """
    return given if given is not None and is_path(given) else name


def which_cluster(project: Project, given: str | None, *, usage: str) -> str | None:
    """Give the cluster that is meant: the one named, or the only one that has machines.

    It may be given by the path of its config. None if there are no machines at all; raises
    ConfigError if several clusters have some, or if the config is wrong.
    """
    if given is not None:
        return cluster_name(project, given)
    running = sorted({p.parents[1].name for p in project.machines_dir.glob("*/*/machine.json")})
    if len(running) > 1:
        raise ConfigError("which cluster?", hint=f"{usage}, of: {', '.join(running)}")
    return running[0] if running else None


def find_kubeconfig(project: Project, cluster: str | None, *, usage: str) -> Path:
    """Find the admin's kubeconfig of a cluster; raises ConfigError if it can't be told which."""
    cluster = which_cluster(project, cluster, usage=usage)
    # First without `glob`, which leaves out what it may not read.
    if cluster is not None and is_there(path := project.state_dir / cluster / KUBECONFIG):
        return path
    known = {path.parent.name: path for path in sorted(project.state_dir.glob(f"*/{KUBECONFIG}"))}
    if cluster is None and len(known) == 1:
        return next(iter(known.values()))
    if cluster is None and not known and is_there(project.state_dir):
        _refuse_unreadable(project.state_dir)
    names = ", ".join(known)
    if cluster is None and known:
        raise ConfigError("which cluster?", hint=f"{usage}, of: {names}")
    hint = f"there are: {names}" if known else "`kubekiln up` makes one"
    raise ConfigError(f"no cluster named {cluster!r} was rendered" if cluster else "no cluster yet",
                      hint=hint)  # fmt: skip


def _refuse_unreadable(state_dir: Path) -> None:
    """Raise StorageError if there are clusters whose state is another user's."""
    for directory in list_dir(state_dir):
        is_there(directory / KUBECONFIG)


def _load(project: Project, name: str) -> Cluster | None:
    from cloudinit.rules import load_cluster

    try:
        return load_cluster(name, project)
    except ConfigError:
        return None
