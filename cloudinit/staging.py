# SPDX-License-Identifier: Apache-2.0
"""Where do payloads wait until all of a cluster's are there, and how do they appear at once?

Beside `build/nodes/<cluster>`: a node is written as soon as it is rendered, and what is there stays
until the last one is. They are not forced to disk one by one: the state is, and from it rendering
makes the same bytes again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from kubekiln.files import make_dir, storage_errors


@contextlib.contextmanager
def staged(final_dir: Path) -> Iterator[Path]:
    """Give an empty directory (0700) to write to; it is gone when the block ends.

    `publish` within the block puts it in the place of `final_dir`. What an interrupted rendering
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


def write_node(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write one node's files (0600) into a directory of its own (0700)."""
    with storage_errors(directory):
        directory.mkdir(mode=0o700)
        for name, content in files.items():
            handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as out:
                out.write(content)


def publish(new_dir: Path, final_dir: Path) -> None:
    """Put the whole of `new_dir` in the place of `final_dir`, with what nodes it has no more."""
    with storage_errors(final_dir):
        if final_dir.exists():
            final_dir.rename(_beside(final_dir, "old"))
        new_dir.rename(final_dir)


def _beside(final_dir: Path, what: str) -> Path:
    # No cluster's name begins with a dot.
    return final_dir.parent / f".{final_dir.name}.{what}"
