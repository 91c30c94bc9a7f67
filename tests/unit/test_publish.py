# SPDX-License-Identifier: Apache-2.0
"""Is a published image a file of its own, there as a whole or not at all?"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from kubekiln.errors import StorageError
from kubekiln.files import locked
from kubekiln.paths import Project
from kubekiln.process import Command, spawn
from pipeline.cache import Stage
from pipeline.model import Image, load_image
from pipeline.stages import publish
from pipeline.stages.publish import Published
from tests.conftest import ROOT
from tests.support.waiting import until

IMAGE: Image = load_image("debian-13", Project(ROOT))
DISK = Stage("disk", "Disk image", "d" * 64, ("disk.qcow2", "dpkg-status"))
STEM = "debian-13-dddddddddddd"
WHOLE = {f"{STEM}{suffix}" for suffix in (".qcow2", ".json", ".cdx.json", ".SHA256SUMS")}
ABOUT = {
    "digest": "d",
    "files": {},
    "image_files": {},
    "libraries": [],
    "qcow2": {"size": 4, "sha256": "a" * 64},
}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """An image whose disk is in the cache, and which isn't published yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    DISK.directory.mkdir(parents=True)
    DISK.output("disk.qcow2").write_bytes(b"disk")
    DISK.output("dpkg-status").write_text("")
    (tmp_path / "images").mkdir()
    return publish.published(IMAGE, DISK, tmp_path / "images")


def publish_it(image: Published) -> None:
    publish.publish(IMAGE, image, disk=DISK, about=ABOUT)


def left(image: Published) -> set[str]:
    return {path.name for path in image.directory.iterdir()} - {".publish.lock"}


def test_what_is_written_to_an_image_doesnt_reach_the_cache(image: Published) -> None:
    image.qcow2.write_bytes(b"of before")

    publish_it(image)
    assert left(image) == WHOLE
    assert image.read() == ABOUT
    assert image.qcow2.read_bytes() == b"disk"
    assert image.qcow2.stat().st_mode & 0o777 == 0o644
    image.qcow2.write_bytes(b"resized")

    assert DISK.output("disk.qcow2").read_bytes() == b"disk"


def test_links_lead_to_the_image(image: Published) -> None:
    publish_it(image)

    publish.point_to(IMAGE, image)

    assert left(image) == WHOLE | {"debian-13.qcow2", "debian-13.json"}
    assert json.loads((image.directory / "debian-13.json").read_text()) == ABOUT


def test_a_copy_that_failed_leaves_the_disk_of_before_and_nothing_else(
    image: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    image.qcow2.write_bytes(b"of before")

    def fail(_source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(StorageError, match="No space"):
        publish_it(image)

    assert image.qcow2.read_bytes() == b"of before"
    assert left(image) == {image.qcow2.name}


STUCK = f"""
import shutil, signal
from pathlib import Path
from tests.unit import test_publish
from pipeline.stages.publish import Published

def copy_half(_source, target):
    target.write_bytes(b"half")
    signal.pause()

shutil.copyfile = copy_half
test_publish.publish_it(Published(Path("{{images}}"), "{STEM}"))
"""


@pytest.mark.processes(Path(sys.executable).name)
def test_what_a_killed_bake_copied_is_removed_by_the_next(image: Published) -> None:
    script = STUCK.format(images=image.directory)
    child = spawn(
        Command(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]},
        )
    )
    try:
        until(
            lambda: child.poll() is not None or any(image.directory.glob(".publish-*/*.qcow2")),
            what="it copies", timeout_s=60,
        )  # fmt: skip
        assert child.poll() is None
        with pytest.raises(StorageError), locked(image.directory / ".publish.lock", blocking=False):
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert image.read() is None
    assert [name.startswith(".publish-") for name in left(image)] == [True]

    publish_it(image)

    assert left(image) == WHOLE
