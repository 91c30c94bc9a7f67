# SPDX-License-Identifier: Apache-2.0
"""Which files of the store go into the image?"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.lock import GoBuild, Lock
from pipeline.model import Image
from pipeline.plan import main_archive
from pipeline.stages.fetch import Fetched, fetch_components
from pipeline.store import Store

# Only inside its container image: nothing on the node runs it directly.
IMAGE_ONLY = ("pause",)


@dataclass(frozen=True)
class Library:
    """A C library that is linked into a program, so that no package tells of it."""

    name: str
    version: str
    inside: str
    """`component/name` of the program."""
    source: str
    """URL of its source, or path in a Debian mirror."""
    checksum: tuple[str, str]
    """Algorithm and hex, of the source."""


@dataclass(frozen=True)
class Components:
    """What the elements install; the store names files by their sha256."""

    files: Mapping[str, Path]
    """`component/name` → a program that is installed on the node."""
    image_files: Mapping[str, Path]
    """`component/name` → a program that is only inside its container image."""
    images: Mapping[str, Path]
    """Reference → archive of a container image."""
    sandbox_image: str
    """Reference of the image of pod sandboxes."""
    providers: Mapping[str, str]
    """Component → who gave it."""
    reused: bool
    """Everything was in the store already."""
    libraries: tuple[Library, ...] = ()
    """What is linked into programs that we compiled."""

    @property
    def digests(self) -> dict[str, str]:
        """Everything → sha256."""
        return {name: path.name for name, path in {**self.files, **self.images}.items()}


def gather(image: Image, lock: Lock, *, cancel: threading.Event | None = None) -> Components:
    """Get every component of the image into the store."""
    check_components(image, lock)
    fetched = fetch_components(
        lock,
        image.components,
        architecture=image.architecture,
        providers=image.providers,
        store=Store.default(),
        mirror=image.component_mirror,
        debian_mirror=main_archive(image),
        cancel=cancel,
    )
    return replace(choose(fetched), libraries=linked_libraries(fetched, lock))


def check_components(image: Image, lock: Lock) -> None:
    """Raise ConfigError, with their lines, for components that the lock can't give."""
    lock.check_wanted(
        image.components, image.architecture, where=lambda name: image.where("components", name)
    )


def choose(fetched: Mapping[str, Fetched]) -> Components:
    """Sort out what is installed and what is only in a container image."""
    programs = {
        f"{component}/{name}": path
        for component, got in sorted(fetched.items())
        for name, path in sorted(got.files.items())
    }
    on_node = {n: path for n, path in programs.items() if n.partition("/")[0] not in IMAGE_ONLY}
    return Components(
        files=on_node,
        image_files={name: path for name, path in programs.items() if name not in on_node},
        images={
            reference: path
            for _, got in sorted(fetched.items())
            for reference, path in sorted(got.images.items())
        },
        sandbox_image=next(iter(fetched["pause"].images), ""),
        providers={component: got.provider for component, got in sorted(fetched.items())},
        reused=all(got.reused for got in fetched.values()),
    )


def linked_libraries(fetched: Mapping[str, Fetched], lock: Lock) -> tuple[Library, ...]:
    """Name the C libraries inside the programs that were built from Go modules, here or elsewhere.

    Of what is inside an upstream's own program the lock knows nothing.
    """
    return tuple(
        Library(name, version, f"{component}/{program}", *_source_of(name, version, got, lock))
        for component, got in sorted(fetched.items())
        for program, path in sorted(got.files.items())
        if (build := lock.release(component, got.version).gomod)
        and (got.provider == "gomod" or _is_built(build, path.name))
        for name, version in sorted(build.c_libraries.items())
    )


def _is_built(build: GoBuild, sha256: str) -> bool:
    return any(sha256 in built.sha256.values() for built in build.built)


def _source_of(name: str, version: str, of: Fetched, lock: Lock) -> tuple[str, tuple[str, str]]:
    release = lock.release(name, version)
    for artefact in release.upstream.get(of.architecture, ()):
        return artefact.url, artefact.digest
    file = release.deb[of.architecture][0]
    return file.path, ("sha256", file.sha256)
