# SPDX-License-Identifier: Apache-2.0
"""Is a published image a file of its own, there as a whole or not at all?"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from pipeline.stages import publish


def test_what_is_written_to_an_image_doesnt_reach_the_cache(tmp_path: Path) -> None:
    cached, image = tmp_path / "disk.qcow2", tmp_path / "image.qcow2"
    cached.write_bytes(b"disk")
    image.write_bytes(b"of before")

    publish.copy_whole(cached, image)
    assert image.read_bytes() == b"disk"
    assert image.stat().st_mode & 0o777 == 0o644
    image.write_bytes(b"resized")

    assert cached.read_bytes() == b"disk"


def test_a_copy_that_failed_leaves_the_image_of_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image.qcow2"
    image.write_bytes(b"of before")

    def fail(_source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(OSError, match="No space"):
        publish.copy_whole(tmp_path / "disk.qcow2", image)

    assert image.read_bytes() == b"of before"
    assert list(tmp_path.iterdir()) == [image]
