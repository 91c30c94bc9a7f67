# SPDX-License-Identifier: Apache-2.0
"""What is done to bake an image, in which order, and what does each step depend on?

A plan is a value: making one reads files and starts nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubekiln.paths import Project
from pipeline.apt import Archives, archive_beside, debian_mirror, host_archives
from pipeline.cache import Stage
from pipeline.elements import Element, resolve
from pipeline.model import Image

# The element that lays down the distribution.
ROOT_ELEMENT = "k8s-debian"
# Time stamp of everything the bake makes itself (2026-01-01): not the clock of the build host.
SOURCE_DATE_EPOCH = 1767225600

_HERE = Path(__file__).parent
_CODE = {
    "base": ("sandbox.sh", "stages/rootfs.py"),
    "rootfs": ("sandbox.sh", "stages/rootfs.py"),
    "disk": ("sandbox.sh", "stages/disk.py", "disk"),
}


@dataclass(frozen=True)
class Plan:
    """What can be known before the components are there."""

    image: Image
    project: Project
    elements: tuple[Element, ...]
    packages: tuple[str, ...]
    archives: Archives
    base: Stage

    def rootfs(self, components: Mapping[str, str]) -> Stage:
        """Plan the root file system; `components` is file (`component/name`) → sha256.

        The base must be there: what counts is which packages it has, not when it was made.
        """
        image = self.image
        digest = digest_of(
            code=_code("rootfs"),
            builder=_builder(),
            base=self.base.output("packages").read_text(),
            elements={e.name: e.digest() for e in self.elements},
            components=dict(components),
            versions=image.components,
            apt=[image.apt.mirror, image.apt.security_mirror, image.apt.components],
            datasources=image.datasources,
            kernel_arguments=image.kernel_arguments,
        )
        return Stage("rootfs", "Root file system: elements", digest, ("root.tar",))

    def disk(self, rootfs: Stage) -> Stage:
        """Plan the disk."""
        digest = digest_of(
            code=_code("disk"),
            rootfs=rootfs.digest,
            disk=self.image.disk.model_dump(),
            name=self.image.name,
        )
        return Stage("disk", "Disk image", digest, ("disk.qcow2", "disk.json", "dpkg-status"))


def make_plan(image: Image, project: Project) -> Plan:
    """Plan a bake; raises ConfigError for elements that aren't there."""
    elements = resolve(
        [ROOT_ELEMENT, *image.elements],
        project.elements_dir,
        where=lambda name: image.where("elements", *_index(name, image.elements)),
    )
    packages = {p for e in elements for p in e.packages(image.architecture)}
    packages |= image.wanted_packages
    root_element = next(e for e in elements if e.name == ROOT_ELEMENT)
    archives = _archives(image)
    base = Stage(
        "base",
        f"Root file system: {image.distribution} {image.release} with {len(packages)} packages",
        digest_of(
            code=_code("base"),
            builder=_builder(),
            element=root_element.digest(),
            packages=sorted(packages),
            release=image.release,
            architecture=image.architecture,
            areas=image.apt.components,
            security=archives.security is not None,
        ),
        ("root.tar", "packages"),
    )
    return Plan(image, project, elements, tuple(sorted(packages)), archives, base)


def _index(name: str, names: Sequence[str]) -> tuple[int, ...]:
    """Find a name; ROOT_ELEMENT needn't be among the image's."""
    return (names.index(name),) if name in names else ()


def _builder() -> str:
    """Both layers are diskimage-builder's: its own elements' scripts run in each."""
    return importlib.metadata.version("diskimage-builder")


def main_archive(image: Image) -> str | None:
    """Choose the archive of packages: the image's for bakes, the host's, the image's own."""
    return image.apt.build_mirror or host_archives().main or image.apt.mirror


def _archives(image: Image) -> Archives:
    """Choose what to install from; raises ConfigError if neither host nor image names anything."""
    host = host_archives()
    main = main_archive(image) or debian_mirror().main
    security = image.apt.build_security_mirror
    if not image.apt.build_mirror:
        security = security or host.security or image.apt.security_mirror
    return Archives(main, security or archive_beside(main))


def digest_of(**inputs: object) -> str:
    """Digest inputs by name."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def _code(stage: str) -> str:
    """Digest the code of a stage: other code may give other outputs."""
    digest = hashlib.sha256()
    for path in _files(_HERE / name for name in _CODE[stage]):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        yield from [path] if path.is_file() else sorted(path.glob("*.*"))
