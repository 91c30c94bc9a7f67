# SPDX-License-Identifier: Apache-2.0
"""Is what was converted once kept while it is whole, and made anew when it isn't?

Real conversions are in tests/platforms/test_formats.py; here a writer copies.
"""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kubekiln.cli.main import app
from kubekiln.errors import ConfigError, IntegrityError, StorageError
from kubekiln.files import locked, sha256_bytes, sha256_file
from pipeline.disk import formats
from pipeline.disk.formats import SUFFIXES, as_format, format_named
from pipeline.disk.writers import WRITERS, Source, Writer
from pipeline.stages.publish import all_published
from pipeline.targets.platform import FormatName

CONTENT = b"the content of a disk"


class Copier:
    """A writer that counts, and fails as one wishes."""

    def __init__(self) -> None:
        self.written = 0
        self.error: Exception | None = None
        self.bad = False

    def write(self, source: Source, out: Path) -> None:
        self.written += 1
        out.write_bytes(CONTENT)
        if self.error:
            raise self.error

    def check(self, source: Source, path: Path) -> None:
        if self.bad:
            raise IntegrityError(f"{path.name} is broken")


@pytest.fixture
def copier(monkeypatch: pytest.MonkeyPatch) -> Copier:
    made = Copier()
    writer = Writer("vmdk", 1 << 20, made.write, made.check)
    monkeypatch.setattr(formats, "WRITERS", {**WRITERS, "vmdk": writer})
    return made


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    qcow2 = tmp_path / "debian-13-0123456789ab.qcow2"
    qcow2.write_bytes(b"QFI\xfb")
    about = {
        "format": 1, "name": "debian-13", "digest": "0123456789ab" * 5, "architecture": "amd64",
        "qcow2": {"path": qcow2.name, "size": 4, "sha256": sha256_file(qcow2),
                  "virtual_size": 5 << 19},
    }  # fmt: skip
    path = qcow2.with_suffix(".json")
    path.write_text(json.dumps(about))
    return path


def test_the_bakes_own_format_is_the_baked_file(manifest: Path) -> None:
    image = as_format(manifest, "qcow2")

    assert image.path == manifest.with_suffix(".qcow2")
    assert (image.sha256, image.virtual_size) == (sha256_file(image.path), 5 << 19)


def test_what_is_written_lies_beside_the_qcow2_and_is_as_large_as_the_format_needs(
    manifest: Path, copier: Copier
) -> None:
    image = as_format(manifest, "vmdk")

    assert image.path == manifest.with_suffix(".vmdk")
    assert image.path.read_bytes() == CONTENT
    assert image.sha256 == sha256_bytes(CONTENT)
    assert image.virtual_size == 3 << 20, "2.5 MiB in whole ones"
    assert image.remote_name == "kubekiln-debian-13-0123456789ab"


def test_the_name_of_the_newest_image_leads_to_the_files_of_that_image(
    manifest: Path, copier: Copier
) -> None:
    link = manifest.with_name("debian-13.json")
    link.symlink_to(manifest.name)

    assert as_format(link, "vmdk").path == manifest.with_suffix(".vmdk")


def test_a_file_that_is_whole_is_used_again(manifest: Path, copier: Copier) -> None:
    first = as_format(manifest, "vmdk")

    assert as_format(manifest, "vmdk") == first
    assert as_format(manifest, "vmdk", reread=True) == first
    assert copier.written == 1


def test_a_file_that_was_only_touched_is_used_again(manifest: Path, copier: Copier) -> None:
    path = as_format(manifest, "vmdk").path
    os.utime(path, ns=(1, 1))

    as_format(manifest, "vmdk")
    path.write_bytes(CONTENT)
    os.utime(path, ns=(1, 1))
    as_format(manifest, "vmdk")

    assert copier.written == 1


def break_file(path: Path) -> None:
    path.write_bytes(CONTENT[:-1] + b"X")


def cut_file(path: Path) -> None:
    os.truncate(path, 3)


def break_record(path: Path) -> None:
    path.with_name(f"{path.name}.json").write_text("{")


def lose_record(path: Path) -> None:
    path.with_name(f"{path.name}.json").unlink()


def age_record(path: Path) -> None:
    record = path.with_name(f"{path.name}.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "recipe": 0}))


def bake_again(path: Path) -> None:
    path.with_suffix(".qcow2").write_bytes(b"QFI\xfbX")
    about = json.loads(path.with_suffix(".json").read_text())
    about["qcow2"]["sha256"] = sha256_bytes(b"QFI\xfbX")
    about["qcow2"]["size"] = 5
    path.with_suffix(".json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    "harm", [break_file, cut_file, Path.unlink, break_record, lose_record, age_record, bake_again],
    ids=lambda harm: harm.__name__,
)  # fmt: skip
def test_what_is_not_whole_any_more_is_made_anew(manifest: Path, copier: Copier, harm) -> None:  # type: ignore[no-untyped-def]
    first = as_format(manifest, "vmdk")
    harm(first.path)

    again = as_format(manifest, "vmdk")

    assert copier.written == 2
    assert again == first
    assert again.path.read_bytes() == CONTENT


def test_what_broke_without_a_trace_is_found_when_it_is_read(
    manifest: Path, copier: Copier
) -> None:
    path = as_format(manifest, "vmdk").path
    time = path.stat().st_mtime_ns
    break_file(path)
    os.utime(path, ns=(time, time))

    as_format(manifest, "vmdk")
    assert copier.written == 1
    as_format(manifest, "vmdk", reread=True)

    assert copier.written == 2
    assert path.read_bytes() == CONTENT


def left(manifest: Path) -> set[str]:
    return {p.name for p in manifest.parent.iterdir()} - {".convert.lock"}


def test_a_file_that_reads_back_wrong_is_an_error_and_leaves_nothing(
    manifest: Path, copier: Copier
) -> None:
    before, copier.bad = left(manifest), True

    with pytest.raises(IntegrityError, match="is broken"):
        as_format(manifest, "vmdk")

    assert left(manifest) == before


def test_a_full_disk_is_said_to_be_full_and_left_as_it_was(manifest: Path, copier: Copier) -> None:
    before = left(manifest)
    copier.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="No space left on device"):
        as_format(manifest, "vmdk")

    assert left(manifest) == before


def test_a_failed_conversion_does_not_leave_a_broken_file_of_before(
    manifest: Path, copier: Copier
) -> None:
    break_file(as_format(manifest, "vmdk").path)
    copier.bad = True

    with pytest.raises(IntegrityError):
        as_format(manifest, "vmdk")

    assert not manifest.with_suffix(".vmdk").exists()


def test_a_qcow2_that_is_not_what_was_baked_is_not_converted(
    manifest: Path, copier: Copier
) -> None:
    manifest.with_suffix(".qcow2").write_bytes(b"QFI\xfa")

    with pytest.raises(IntegrityError, match="is not what was baked") as raised:
        as_format(manifest, "vmdk")

    assert raised.value.problems[0].hint
    assert copier.written == 0


@pytest.mark.parametrize("form", ["qcow2", "vmdk"])
def test_a_qcow2_that_is_gone_is_said_to_be_gone(
    manifest: Path, copier: Copier, form: FormatName
) -> None:
    manifest.with_suffix(".qcow2").unlink()

    with pytest.raises(IntegrityError, match=r"0123456789ab\.qcow2 is gone"):
        as_format(manifest, form)


def test_what_a_killed_conversion_left_goes_with_the_next_one_of_any_format(
    manifest: Path, copier: Copier
) -> None:
    residue = manifest.with_name(".convert-debian-13-0123456789ab.raw")
    residue.write_bytes(b"half")

    as_format(manifest, "vmdk")

    assert not residue.exists()


def test_whoever_comes_while_a_file_is_written_waits_and_writes_none(
    manifest: Path, copier: Copier
) -> None:
    with ThreadPoolExecutor(4) as pool:
        with locked(manifest.with_name(".convert.lock")):
            waiting = [pool.submit(as_format, manifest, "vmdk") for _ in range(4)]
        images = {future.result() for future in waiting}

    assert len(images) == 1
    assert copier.written == 1


def test_every_format_that_a_platform_may_ask_for_can_be_written() -> None:
    assert set(SUFFIXES) == {"raw", "qcow2", "vmdk", "ova", "vhd", "gce", "tar"}
    assert format_named("gce") == "gce"
    with pytest.raises(ConfigError, match="no format 'zip'") as raised:
        format_named("zip")
    assert "there are: gce, ova, qcow2" in str(raised.value)


def test_a_record_is_not_taken_for_an_image(manifest: Path, copier: Copier) -> None:
    about = {**json.loads(manifest.read_text()), "root_tar": str(manifest), "created": "2026-11-26"}
    manifest.write_text(json.dumps(about))

    as_format(manifest, "vmdk")

    assert [path for path, _ in all_published(manifest.parent)] == [manifest]


def test_convert_prints_path_size_and_checksum(
    manifest: Path, copier: Copier, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["image", "convert", str(manifest), "--format", "vmdk"])

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines == [
        str(tmp_path / "debian-13-0123456789ab.vmdk"),
        "  size   0 MB, of a disk of 3 MiB",
        f"  sha256 {sha256_bytes(CONTENT)}",
    ]
