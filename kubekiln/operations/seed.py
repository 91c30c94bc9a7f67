# SPDX-License-Identifier: Apache-2.0
"""How does a machine of a pool get its name where no platform gives it one? (a NoCloud seed)"""

from __future__ import annotations

from pathlib import Path

from cloudinit.model import Cluster
from cloudinit.nodepool import NodePool
from cloudinit.seed import build_iso
from cloudinit.userdata import render_metadata
from kubekiln.errors import ConfigError
from kubekiln.files import make_private_dirs, write_atomic
from kubekiln.paths import Project


def write_seed(project: Project, cluster: Cluster, name: str, *, into: Path | None = None) -> Path:
    """Write the pool's user-data with a meta-data of this machine's, as files and as an ISO.

    Raises ConfigError if no pool takes the name, or the pool wasn't rendered yet.
    """
    pool = pool_of(cluster, name)
    path = project.nodes_dir / cluster.name / pool.name / "user-data"
    if not path.is_file():
        raise ConfigError(
            f"pool {pool.name} was not rendered yet",
            where=str(path),
            hint=f"`kubekiln cluster render {cluster.name}` does it",
        )
    user_data = path.read_bytes()
    files = {
        "meta-data": render_metadata(cluster.name, name, user_data),
        "user-data": user_data,
    }
    directory = make_private_dirs(into or project.seeds_dir / cluster.name / name)
    for file, content in {**files, "seed.iso": build_iso(files)}.items():
        write_atomic(directory / file, content, mode=0o600)
    return directory


def pool_of(cluster: Cluster, name: str) -> NodePool:
    """Find the pool that takes a machine of this name; raises ConfigError if none does."""
    for pool in cluster.pools:
        if pool.takes(name):
            return pool
    names = ", ".join(f"{pool.name_prefix}…" for pool in cluster.pools)
    raise ConfigError(
        f"cluster {cluster.name} has no pool for a machine called {name!r}",
        hint=f"its pools' machines are called {names}" if names else "it has no pools",
    )
