# SPDX-License-Identifier: Apache-2.0
"""How does a finished disk become `build/images/<name>-<digest>.*`, all of it or nothing?"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubekiln.files import locked, make_dir, storage_errors, sync_dir, sync_file
from kubekiln.progress import waits
from pipeline.cache import Stage
from pipeline.model import Image
from pipeline.stages.components import Components
from pipeline.stages.record import manifest, read_packages, sbom, write_records

_DIGEST_SHOWN = 12


@dataclass(frozen=True)
class Published:
    """The files of one image."""

    directory: Path
    stem: str

    @property
    def qcow2(self) -> Path:
        return self.directory / f"{self.stem}.qcow2"

    @property
    def manifest(self) -> Path:
        return self.directory / f"{self.stem}.json"

    def read(self) -> dict[str, Any] | None:
        """Read the manifest; None unless the image is whole.

        A whole one stays, whatever becomes of the cache: disks of machines are on top of it.
        """
        try:
            found: dict[str, Any] = json.loads(self.manifest.read_text())
            whole = self.qcow2.stat().st_size == found["qcow2"]["size"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if whole else None


def published(image: Image, disk: Stage, images_dir: Path) -> Published:
    """Name the files of an image, whether they are there or not."""
    return Published(images_dir, f"{image.name}-{disk.digest[:_DIGEST_SHOWN]}")


def describe(
    image: Image, to: Published, *, base: Stage, rootfs: Stage, disk: Stage, components: Components
) -> dict[str, Any]:
    """Make the manifest."""
    return {
        **manifest(
            image,
            digest=disk.digest,
            qcow2=(disk.output("disk.qcow2"), to.qcow2.name),
            root_tar=rootfs.output("root.tar"),
            files={name: path.name for name, path in components.files.items()},
            image_files={name: path.name for name, path in components.image_files.items()},
            images={reference: path.name for reference, path in components.images.items()},
            libraries=components.libraries,
            packages=read_packages(disk.output("dpkg-status").read_text()),
        ),
        "providers": dict(components.providers),
        "stages": {stage.name: stage.digest for stage in (base, rootfs, disk)},
        "layout": json.loads(disk.output("disk.json").read_text()),
    }


def publish(image: Image, to: Published, *, disk: Stage, about: Mapping[str, Any]) -> None:
    """Copy the disk and write its records beside it; the manifest gets its name last.

    Not a link: whoever writes to a published image would change the cache, and other checkouts'.
    """
    packages = read_packages(disk.output("dpkg-status").read_text())
    bill = sbom(image, about, packages)
    make_dir(to.directory)
    with staging_dir(to.directory) as staging:
        to.manifest.unlink(missing_ok=True)
        copy = staging / to.qcow2.name
        shutil.copyfile(disk.output("disk.qcow2"), copy)
        copy.chmod(0o644)
        sync_file(copy)
        records = write_records(staging, to.stem, manifest=about, sbom=bill)
        for path in (copy, *records):
            path.rename(to.directory / path.name)
        sync_dir(to.directory)


def point_to(image: Image, to: Published) -> None:
    """Make `<name>.qcow2` and `<name>.json` lead to this image."""
    for target in (to.qcow2, to.manifest):
        link = to.directory / f"{image.name}{target.suffix}"
        if link.is_symlink() and link.readlink() == Path(target.name):
            continue
        with staging_dir(to.directory) as staging:
            (staging / "link").symlink_to(target.name)
            (staging / "link").rename(link)


def all_published(images_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """List the manifests of whole images, newest first."""
    found = []
    for path in images_dir.glob("*.json"):
        about = None if path.is_symlink() else Published(images_dir, path.stem).read()
        if about:
            found.append((path, about))
    return sorted(found, key=lambda entry: str(entry[1]["created"]), reverse=True)


@contextlib.contextmanager
def staging_dir(directory: Path) -> Iterator[Path]:
    """Give a directory for what isn't whole yet, beside its place and gone afterwards.

    One at a time has one, so any other was left by a bake that was killed, and is removed.
    """
    waiting = waits("another kubekiln publishes an image")
    with storage_errors(directory), locked(directory / ".publish.lock", waiting=waiting):
        for left in directory.glob(".publish-*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".publish-") as name:
            yield Path(name)
