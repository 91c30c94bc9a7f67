# SPDX-License-Identifier: Apache-2.0
"""How does a container image get from this host into every node's containerd?"""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.operations.clusters import which_cluster
from kubekiln.paths import Project
from kubekiln.progress import step
from pipeline.targets.protocol import Enterable
from pipeline.targets.record import list_records
from pipeline.targets.registry import find_target

_CTR = "/usr/local/bin/ctr"
_ROLES = ("single", "master", "worker")
_LARGEST_INDEX = 16 << 20
# What the libraries raise for an archive that is none, is cut off or has other bytes.
_UNREADABLE = (
    OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError,
    ValueError, KeyError, TypeError, AttributeError,
)  # fmt: skip
# What names an image in an OCI archive: containerd's own annotation, else the OCI one.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class Loaded:
    """An archive that is in containerd of each of these nodes."""

    images: tuple[str, ...]
    nodes: tuple[str, ...]


def load_images(project: Project, archive: Path, cluster: str | None) -> Loaded:
    """Import an OCI or docker archive into each node that runs pods.

    Raises KubekilnError before any work if a machine has no door (QEMU), ConfigError if the file
    is no archive of images with names.
    """
    images = read_names(archive)
    name = which_cluster(project, cluster, usage="kubekiln image load ARCHIVE --on CLUSTER")
    records = [
        record
        for record in (list_records(project.machines_dir, name) if name else [])
        if record.machine.role in _ROLES
    ]
    if not records:
        raise ConfigError(
            f"no machines of {name}" if name else "no machines", hint="`kubekiln up` boots some"
        )
    doors = [(record.machine, find_target(record.target)) for record in records]
    for machine, target in doors:
        if not isinstance(target, Enterable):
            raise _no_door(machine.name, target.name)
    command = [_CTR, "--namespace=k8s.io", "images", "import", "-"]
    for machine, target in doors:
        assert isinstance(target, Enterable)
        with step(f"Loading {archive.name} into {machine.name}"):
            target.run_inside(machine, command, stdin_file=archive)
    return Loaded(images, tuple(machine.name for machine, _ in doors))


def read_names(archive: Path) -> tuple[str, ...]:
    """List the names of the images in an archive; raises ConfigError if it has none."""
    try:
        with tarfile.open(archive, "r:*") as tar:
            names = _names(tar)
    except _UNREADABLE as error:
        why = str(error).partition("\n")[0].rstrip(":")
        raise ConfigError(
            f"cannot read {archive} as an archive of container images: {why}",
            hint="`docker save NAME:TAG -o FILE` makes one; one compressed with zstd must be "
            "unpacked first",
        ) from error
    if not names:
        raise ConfigError(
            f"no image in {archive} has a whole name, so no pod could ask for it",
            hint="`docker save NAME:TAG -o FILE` keeps it; with other tools write registry and "
            "tag, too: docker.io/library/NAME:TAG",
        )
    return names


def _names(tar: tarfile.TarFile) -> tuple[str, ...]:
    found: dict[str, Any] = {}
    for member in tar:
        name = member.name.removeprefix("./")
        if name in ("index.json", "manifest.json") and member.isreg():
            file = tar.extractfile(member)
            found[name] = json.loads(file.read(_LARGEST_INDEX)) if file else None
    if not found:
        raise ValueError("it has neither index.json nor manifest.json")
    # An archive of docker's has both; its tags are in manifest.json.
    names = {tag for image in found.get("manifest.json", []) for tag in image["RepoTags"] or []}
    for manifest in found.get("index.json", {}).get("manifests", []):
        notes = manifest.get("annotations") or {}
        name = next((str(notes[key]) for key in _NAMES if key in notes), "")
        # containerd takes this one as it is, and a pod's short name is made whole: they must meet.
        if name and _full(name) == name:
            names.add(name)
    return tuple(sorted({_full(name) for name in names}))


def _full(name: str) -> str:
    """Write a name as containerd does: with registry and tag."""
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    has_tag = ":" in name.rpartition("/")[2] or "@" in name
    return name if has_tag else f"{name}:latest"


def _no_door(machine: str, target: str) -> KubekilnError:
    return KubekilnError(
        f"{machine} is a machine of target {target}, into which nothing can be loaded: it has no "
        "SSH and no agent, on purpose",
        hint="run the cluster with --target nspawn; or let the node pull: push the image to a "
        "registry that the machine's network reaches (docs/local.md)",
    )
