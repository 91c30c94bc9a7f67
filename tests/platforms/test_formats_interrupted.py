# SPDX-License-Identifier: Apache-2.0
"""What does a conversion leave that is killed or has no room, and how much room does it need?"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kubekiln.process import Command, run
from pipeline.disk.formats import SUFFIXES, as_format
from pipeline.targets.platform import FormatName
from tests.conftest import ROOT
from tests.support.disks import DISKS, MIB, publish
from tests.support.rootdisk import publish_root_disk

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(300)]
CONVERT = """
import sys
from pathlib import Path
from pipeline.disk.formats import as_format
from kubekiln.errors import KubekilnError
try:
    print(as_format(Path(sys.argv[1]), sys.argv[2]).sha256)
except KubekilnError as error:
    print(type(error).__name__, error)
"""


def converting(manifest: Path, form: FormatName) -> list[str | Path]:
    return [sys.executable, "-c", CONVERT, manifest, form]


def left(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {".convert.lock"}


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it didn't happen within a minute"
        time.sleep(0.01)


@pytest.mark.parametrize("form", [*DISKS, "gce"])
def test_a_conversion_that_is_killed_leaves_nothing_that_counts(
    tmp_path: Path, form: FormatName
) -> None:
    raw = tmp_path / "source.raw"
    raw.write_bytes(random.Random(1).randbytes(4 * MIB) * 40)
    manifest = publish(raw, tmp_path)
    raw.unlink()
    before = left(tmp_path)
    part = tmp_path / f".convert-{manifest.stem}.{SUFFIXES[form]}"

    with subprocess.Popen(converting(manifest, form), cwd=ROOT, start_new_session=True) as child:
        wait_for(lambda: part.exists() and part.stat().st_blocks > 0)
        child.send_signal(signal.SIGKILL)
        child.wait()

    wait_for(lambda: not users_of(part))
    assert left(tmp_path) <= before | {part.name}
    assert as_format(manifest, "vmdk").path.is_file()
    assert left(tmp_path) == before | {f"{manifest.stem}.vmdk", f"{manifest.stem}.vmdk.json"}


def users_of(path: Path) -> list[str]:
    """List processes that still have a file open: none may write for nobody."""
    found = []
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if handle.readlink().name.startswith(path.name):
                found.append(handle.parts[2])
        except OSError:
            continue
    return found


def in_tmpfs(directory: Path, size: int, command: list[str | Path]) -> str:
    """Run a command where a directory is a file system of so many bytes, with what is in it."""
    script = (
        'mkdir -p "$0.all" && mount --bind "$0" "$0.all" && mount -t tmpfs -o size="$1" none "$0" '
        '&& cp -a "$0.all/." "$0" && directory=$0 && shift && "$@" && ls -A "$directory"'
    )
    return run(
        Command(["unshare", "--mount", "sh", "-c", script, directory, str(size), *command],
                cwd=ROOT)
    ).text  # fmt: skip


def room_of(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


@pytest.mark.root
@pytest.mark.parametrize("form", [*DISKS, "gce", "tar"])
def test_a_conversion_needs_no_more_room_than_its_result_and_a_tenth(
    tmp_path: Path, form: FormatName
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    manifest = publish_root_disk(tmp_path, images, noise_mib=24)
    sources = room_of(images)
    image = as_format(manifest, form)
    result = image.path.stat().st_blocks * 512
    for file in (image.path, image.path.with_name(f"{image.path.name}.json")):
        file.unlink()

    # 64 KiB: records, and the directory itself.
    room = sources + result + result // 10 + (64 << 10)
    assert image.sha256 in in_tmpfs(images, room, converting(manifest, form))


@pytest.mark.root
@pytest.mark.parametrize("form", [*DISKS, "gce", "tar"])
def test_a_full_disk_is_said_to_be_full_and_nothing_is_left_on_it(
    tmp_path: Path, form: FormatName
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    manifest = publish_root_disk(tmp_path, images, noise_mib=24)
    sources = room_of(images)

    said = in_tmpfs(images, sources + 8 * MIB, converting(manifest, form))

    assert "StorageError error: cannot write" in said
    assert "No space left on device" in said
    assert "hint: free some disk space" in said
    listed = said.splitlines()[-len(left(images)) - 1 :]
    assert set(listed) == left(images) | {".convert.lock"}
