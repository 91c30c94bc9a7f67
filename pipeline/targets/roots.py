# SPDX-License-Identifier: Apache-2.0
"""Where are the unpacked roots of images, which container machines share read-only?

`<cache>/roots/<digest>`, one an image; a machine that runs on one holds `<digest>.lock` shared.
"""

from __future__ import annotations

from pathlib import Path

from kubekiln.errors import StorageError
from kubekiln.files import locked, make_dir, storage_errors
from kubekiln.paths import cache_dir
from kubekiln.process import Command, run
from kubekiln.progress import step
from pipeline.room import ROOT_BYTES, check_room
from pipeline.targets.machine import BootImage

_KEPT = 2


def ensure_root(image: BootImage) -> Path:
    """Unpack the image's root once per digest; a half-unpacked one is never seen."""
    roots = make_dir(cache_dir() / "roots")
    root = roots / image.digest
    with locked(roots / "unpack.lock"):
        (roots / f"{image.digest}.lock").touch()
        if root.is_dir():
            return root
        remove_unused(roots, keep=image.digest)
        check_room(roots, ROOT_BYTES, what_for=f"to unpack {image.name}")
        half = roots / f".{image.digest}.half"
        title = f"Unpacking the root of {image.name} for container machines"
        with step(title), storage_errors(roots):
            try:
                unpack(image.root_tar, half)
                run(Command(["mv", "-T", half, root], as_root=True))
            finally:
                run(Command(["rm", "-rf", half], as_root=True))
    return root


def unpack(root_tar: Path, into: Path) -> None:
    """Unpack a root file system into a directory that is made anew."""
    run(Command(["rm", "-rf", into], as_root=True))
    run(Command(["mkdir", into], as_root=True))
    run(unpack_command(root_tar, into))
    # Mount points, which the tar of a root file system may leave out.
    run(Command(["mkdir", "-p", *(into / n for n in ("proc", "sys", "dev", "run"))], as_root=True))


def unpack_command(root_tar: Path, into: Path) -> Command:
    """Unpack with numeric owners, capabilities and attributes, as they are in the image."""
    return Command(
        ["tar", "--extract", "--auto-compress", "--numeric-owner", "--xattrs",
         "--xattrs-include=*", "--same-permissions", "--directory", into, "--file", root_tar],
        as_root=True,
    )  # fmt: skip


def remove_unused(roots: Path, *, keep: str) -> None:
    """Remove all but the newest roots, except those on which a machine runs."""
    every = sorted(
        (p for p in roots.iterdir() if p.is_dir() and not p.name.startswith(".")),
        key=lambda p: p.stat().st_mtime,
    )
    for root in [p for p in every if p.name != keep][: -(_KEPT - 1) or None]:
        lock = roots / f"{root.name}.lock"
        try:
            with locked(lock, blocking=False):
                run(Command(["rm", "-rf", root], as_root=True))
                lock.unlink(missing_ok=True)
        except StorageError:
            continue  # a machine runs on it
