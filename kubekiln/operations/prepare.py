# SPDX-License-Identifier: Apache-2.0
"""What must be there before a cluster can boot, and how are the two halves asked for it?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cloudinit.model import Cluster
from cloudinit.render import render_cluster
from cloudinit.rendered import RenderedCluster
from cloudinit.rules import load_cluster
from kubekiln.channel import CHANNELS, Channel
from kubekiln.config import Source
from kubekiln.errors import ConfigError
from kubekiln.paths import Project
from pipeline.bake import bake
from pipeline.lock import Lock, load_lock, lock_path
from pipeline.model import Image, load_image
from pipeline.targets.machine import BootImage


@dataclass(frozen=True)
class Plan:
    """A cluster's configuration, that of its image, and the lock: they fit each other."""

    cluster: Cluster
    path: Path
    """Where its configuration is, or will be."""
    image: Image
    lock: Lock


def load(project: Project, name: str) -> Plan:
    """Read everything and check that it fits; raises ConfigError before any work."""
    return fit(project, load_cluster(name, project), project.config_path("clusters", name))


def fit(project: Project, cluster: Cluster, path: Path) -> Plan:
    """Check that a cluster, its image and the lock fit; `path` is (or will be) its config."""
    lock = load_lock(lock_path(project.configs_dir))
    where = Source(path).where(("kubernetes",)) if path.is_file() else None
    lock.release("kubernetes", cluster.kubernetes, where=where)
    image = load_image(cluster.image, project)
    if image.kubernetes != cluster.kubernetes:
        raise ConfigError(
            f"cluster {cluster.name} wants Kubernetes {cluster.kubernetes}, its image "
            f"{image.name} has {image.kubernetes}",
            where=where,
            hint=f"write {image.kubernetes} here, or {cluster.kubernetes} in the image's config",
        )
    refuse_other_datasource(project, cluster, image, path)
    return Plan(cluster, path, image, lock)


def refuse_other_datasource(project: Project, cluster: Cluster, image: Image, path: Path) -> None:
    """Raise ConfigError if the image's cloud-init doesn't look where the user-data will be."""
    channel = CHANNELS[cluster.datasource]
    if _looks_there(image, channel):
        return
    source = Source(path) if path.is_file() else None
    key = next((k for k in ("datasource", "image") if source and source.has((k,))), None)
    raise ConfigError(
        f"datasource {cluster.datasource} is {' or '.join(channel.sources)} to cloud-init; image "
        f"{image.name} looks at {', '.join(image.datasources)} alone",
        where=source.where((key,) if key else ()) if source else None,
        hint=" or ".join(f"`image: {name}`" for name in _fitting_images(project, cluster))
        or f"take an image with `datasources: [{channel.sources[0]}]`; none in configs/images with "
        f"Kubernetes {cluster.kubernetes} has it",
    )


def _fitting_images(project: Project, cluster: Cluster) -> list[str]:
    """Name the project's images that this cluster can have."""
    found, channel = [], CHANNELS[cluster.datasource]
    for name in project.config_names("images"):
        try:
            image = load_image(name, project)
        except ConfigError:
            # Whoever bakes that one hears of it.
            continue
        if image.kubernetes == cluster.kubernetes and _looks_there(image, channel):
            found.append(name)
    return found


def _looks_there(image: Image, channel: Channel) -> bool:
    return not set(channel.sources).isdisjoint(image.datasources)


def bake_image(project: Project, plan: Plan) -> BootImage:
    """Bake the cluster's image; from the cache if nothing changed."""
    baked = bake(plan.image, project=project, lock=plan.lock)
    return BootImage(baked.name, baked.digest, baked.qcow2, baked.root_tar)


def key_dir_of(project: Project, cluster: Cluster, owner: str) -> Path | None:
    """Name the directory of a machine's (or pool's) key to its user-data, if that is encrypted."""
    is_sealed = cluster.userdata.protect == "age"
    return project.keys_dir / cluster.name / owner if is_sealed else None


def render(project: Project, plan: Plan) -> RenderedCluster:
    """Render the cluster's nodes."""
    return render_cluster(plan.cluster, project=project)
