# SPDX-License-Identifier: Apache-2.0
"""Where do payloads wait until all of a cluster's are there, and how do they take their places?

Beside `build/nodes/<cluster>`: a node that changed is written as soon as it is rendered, and what
is there stays until the last one is. They are not forced to disk one by one: the state is, and from
it rendering makes the same bytes again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from kubekiln.files import locked, make_dir, storage_errors
from kubekiln.paths import Project
from kubekiln.progress import waits


@contextlib.contextmanager
def rendering(project: Project, cluster: str) -> Iterator[None]:
    """Be the only one who makes or removes a cluster's keys and payloads; waits for its turn."""
    make_dir(project.state_dir, mode=0o700)
    lock = project.state_dir / f".{cluster}.lock"
    with locked(lock, waiting=waits(f"another kubekiln renders cluster {cluster}")):
        yield


@contextlib.contextmanager
def staged(final_dir: Path) -> Iterator[Path]:
    """Give an empty directory (0700) to write to; it is gone when the block ends.

    `publish` within the block moves what it holds to `final_dir`. What an interrupted rendering
    left is removed first.
    """
    new_dir, old_dir = _beside(final_dir, "new"), _beside(final_dir, "old")
    for left in (new_dir, old_dir):
        shutil.rmtree(left, ignore_errors=True)
    make_dir(final_dir.parent, mode=0o700)
    make_dir(new_dir, mode=0o700)
    try:
        yield new_dir
    finally:
        for left in (new_dir, old_dir):
            shutil.rmtree(left, ignore_errors=True)


def is_current(directory: Path, files: Mapping[str, bytes]) -> bool:
    """Tell whether a node's directory holds exactly these files, for their owner's eyes only."""
    try:
        return (
            directory.stat().st_mode & 0o777 == 0o700
            and {path.name for path in directory.iterdir()} == files.keys()
            and all(_is_same(directory / name, content) for name, content in files.items())
        )
    except OSError:
        return False


def _is_same(path: Path, content: bytes) -> bool:
    found = path.stat()
    fits = found.st_mode & 0o777 == 0o600 and found.st_size == len(content)
    return fits and path.read_bytes() == content


def write_node(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write one node's files (0600) into a directory of its own (0700)."""
    with storage_errors(directory):
        directory.mkdir(mode=0o700)
        for name, content in files.items():
            handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(content)


def publish(new_dir: Path, final_dir: Path, *, keep: Collection[str]) -> None:
    """Move each node in `new_dir` to its place, and those not in `keep` away: they hold keys.

    A node is seen as it was or as it is, never half; an interrupted one is put there the next time.
    """
    old_dir = _beside(final_dir, "old")
    make_dir(final_dir, mode=0o700)
    make_dir(old_dir, mode=0o700)
    with storage_errors(final_dir):
        for path in sorted(new_dir.iterdir()):
            place = final_dir / path.name
            if place.exists():
                place.rename(old_dir / path.name)
            path.rename(place)
        for path in sorted(final_dir.iterdir()):
            if path.name not in keep:
                path.rename(old_dir / path.name)


def discard(final_dir: Path) -> None:
    """Remove a cluster's payloads, with what a rendering that was killed left beside them."""
    with storage_errors(final_dir):
        for directory in (final_dir, _beside(final_dir, "new"), _beside(final_dir, "old")):
            if directory.exists():
                shutil.rmtree(directory)


def _beside(final_dir: Path, what: str) -> Path:
    # No cluster's name begins with a dot.
    return final_dir.parent / f".{final_dir.name}.{what}"
