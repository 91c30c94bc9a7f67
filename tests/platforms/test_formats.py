# SPDX-License-Identifier: Apache-2.0
"""Is the same disk in every format, by the tools of those who made the format?"""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kubekiln.errors import IntegrityError
from kubekiln.files import sha256_file
from kubekiln.process import Command, RealRunner, run
from pipeline.disk.formats import as_format
from pipeline.disk.layout import make_layout, write_table
from pipeline.disk.nbd import file_node, open_disk
from pipeline.targets.platform import FormatName
from tests.support.disks import DISKS, MIB, make_raw, publish, raw_sha256

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(300)]
GIB = 1 << 30
UNITS = {"raw": 512, "vmdk": 64 << 10, "ova": 64 << 10, "vhd": MIB, "gce": GIB}


def make_disk(path: Path, size: int) -> Path:
    """Write a disk of any size with noise at its beginning and its end, and holes between."""
    noise = random.Random(size).randbytes(min(size, 300_000) // 512 * 512)
    with path.open("wb") as out:
        out.write(noise)
        out.truncate(size)
        out.seek(size - len(noise))
        out.write(noise)
        # Data that ends in the middle of everything.
        out.seek(size // 2)
        out.write(noise[:700])
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The manifest of a disk of 16 MiB, as published."""
    return publish(make_raw(tmp_path / "source.raw", size_mib=16), tmp_path)


def head_sha256(path: Path, size: int) -> tuple[str, bool]:
    """Hash the beginning of a file, and tell whether the rest is zeros."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for _ in range(size // 512):
            digest.update(file.read(512))
        rest = iter(lambda: file.read(MIB), b"")
        return digest.hexdigest(), all(part == bytes(len(part)) for part in rest)


@pytest.mark.parametrize(
    "size", [16 * MIB, MIB + 512, 3 * MIB - 512, 33 * MIB + (64 << 10), 70 * MIB + (37 << 9)]
)
@pytest.mark.parametrize("form", DISKS)
def test_the_disk_is_the_same_in_every_format_and_size(
    tmp_path: Path, form: FormatName, size: int
) -> None:
    raw = make_disk(tmp_path / "source.raw", size)

    image = as_format(publish(raw, tmp_path), form)

    assert image.virtual_size == -(-size // UNITS[form]) * UNITS[form]
    assert image.sha256 == sha256_file(image.path)
    back = tmp_path / "back.raw"
    raw_sha256(image.path, form, tmp_path, keep=back)
    assert back.stat().st_size == image.virtual_size
    assert head_sha256(back, size) == (sha256_file(raw), True)


def test_a_raw_disk_takes_only_the_room_of_what_is_on_it(small: Path) -> None:
    image = as_format(small, "raw")

    assert image.sha256 == sha256_file(small.with_name("source.raw"))
    assert image.path.stat().st_blocks * 512 < 4 * MIB < image.size


def tool(*words: str | Path) -> str:
    return run(Command(list(words))).text


def info(path: Path, driver: str) -> dict[str, Any]:
    words = ("qemu-img", "info", "--output=json", "-f", driver)
    found: dict[str, Any] = json.loads(tool(*words, path))
    return found


@pytest.mark.parametrize("form", DISKS)
def test_each_conversion_gives_the_same_file(small: Path, form: FormatName) -> None:
    first = as_format(small, form)
    first.path.unlink()

    assert as_format(small, form) == first


def test_a_vmdk_is_stream_optimized_and_whole(small: Path) -> None:
    image = as_format(small, "vmdk")

    details = info(image.path, "vmdk")["format-specific"]["data"]
    assert details["create-type"] == "streamOptimized"
    assert "No errors" in tool("qemu-img", "check", "-f", "vmdk", image.path)


def test_a_vmdk_ends_as_vmware_exports_end(small: Path) -> None:
    content = as_format(small, "vmdk").path.read_bytes()

    header, footer = content[:512], content[-1024:-512]
    assert len(content) % 512 == 0
    assert struct.unpack_from("<Q", header, 56) == (0xFFFFFFFFFFFFFFFF,), "the directory follows"
    (directory,) = struct.unpack_from("<Q", footer, 56)
    assert struct.unpack_from("<QII", content, (directory - 1) * 512) == (1, 0, 2)
    assert struct.unpack_from("<QII", content, len(content) - 1536) == (1, 0, 3)
    assert content[-512:] == bytes(512), "the end of the stream"
    assert footer[:56] == header[:56]


def test_an_ova_is_unpacked_by_tar_and_is_what_its_manifest_says(
    small: Path, tmp_path: Path
) -> None:
    image = as_format(small, "ova")

    out = tmp_path / "out"
    out.mkdir()
    stem = small.stem
    names = tool("tar", "-xvf", image.path, "-C", out).splitlines()
    assert names == [f"{stem}.ovf", f"{stem}.mf", f"{stem}.vmdk"]
    sums = "".join(
        f"{line.partition('= ')[2]}  {line.partition('(')[2].partition(')')[0]}\n"
        for line in (out / f"{stem}.mf").read_text().splitlines()
    )
    run(Command(["sha256sum", "--strict", "-c", "-"], cwd=out, stdin=sums.encode()))
    assert "No errors" in tool("qemu-img", "check", "-f", "vmdk", out / f"{stem}.vmdk")
    descriptor = ElementTree.parse(out / f"{stem}.ovf")
    (file,) = [e for e in descriptor.iter() if e.tag.endswith("}File")]
    (size,) = [value for key, value in file.attrib.items() if key.endswith("}size")]
    assert int(size) == (out / f"{stem}.vmdk").stat().st_size
    assert image.path.read_bytes()[257:265] == b"ustar\x0000"
    assert (out / f"{stem}.vmdk").read_bytes() == as_format(small, "vmdk").path.read_bytes()


def test_a_vhd_is_fixed_and_says_its_whole_size_everywhere(tmp_path: Path) -> None:
    size = 5 * MIB + 512

    image = as_format(publish(make_disk(tmp_path / "source.raw", size), tmp_path), "vhd")

    footer = image.path.read_bytes()[-512:]
    cookie, _, version, first, *_ = struct.unpack_from(">8sIIQ", footer)
    assert (cookie, version, first) == (b"conectix", 0x10000, 0xFFFFFFFFFFFFFFFF)
    assert struct.unpack_from(">QQ", footer, 40) == (6 * MIB, 6 * MIB), "at first, and now"
    assert struct.unpack_from(">I", footer, 60) == (2,), "fixed"
    (checksum,) = struct.unpack_from(">I", footer, 64)
    assert checksum == ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF
    assert image.size == 6 * MIB + 512
    assert info(image.path, "vpc")["virtual-size"] == image.virtual_size == 6 * MIB


def test_a_disk_for_gce_is_one_file_in_gnus_old_format(small: Path, tmp_path: Path) -> None:
    image = as_format(small, "gce")

    assert image.path.name == f"{small.stem}.tar.gz"
    assert image.virtual_size == GIB
    listing = tool("tar", "-tvzf", image.path).split()
    assert (listing[2], listing[-1]) == (str(GIB), "disk.raw")
    tool("tar", "-xzf", image.path, "-C", tmp_path, "--sparse")
    assert head_sha256(tmp_path / "disk.raw", 16 * MIB) == (
        sha256_file(small.with_name("source.raw")), True,
    )  # fmt: skip
    unzipped = run(Command(["sh", "-c", 'gzip -dc "$0" | head -c 512', image.path])).stdout
    assert unzipped[257:265] == b"ustar  \0"


def test_where_a_disk_was_made_larger_its_last_partition_can_grow(tmp_path: Path) -> None:
    disk, layout = tmp_path / "disk.raw", make_layout(size_mib=80, architecture="amd64", seed="x")
    write_table(disk, layout, runner=RealRunner())
    # What padding does, too, and every machine with a larger disk than the image's.
    os.truncate(disk, GIB)

    before = json.loads(tool("sfdisk", "--json", disk))["partitiontable"]
    # What growpart(1) does: the table without its last sector, and the partition without a size.
    script = "\n".join(
        line.replace(f"size={layout.root.size // 512:12}, ", "").replace(
            f"size= {layout.root.size // 512:11}, ", ""
        )
        for line in tool("sfdisk", "--dump", disk).splitlines()
        if not line.startswith("last-lba")
    )
    run(Command(["sfdisk", "--quiet", "--no-reread", disk], stdin=script.encode()))
    after = json.loads(tool("sfdisk", "--json", disk))["partitiontable"]

    assert [p["uuid"] for p in before["partitions"]] == [p["uuid"] for p in after["partitions"]]
    assert before["partitions"][2]["size"] * 512 == layout.root.size
    assert after["partitions"][2]["size"] * 512 > GIB - 80 * MIB
    assert "No errors detected" in tool("sfdisk", "--verify", disk)


def test_a_disk_needs_not_be_read_to_its_end(tmp_path: Path) -> None:
    raw = tmp_path / "x.raw"
    raw.write_bytes(random.Random(1).randbytes(16 * MIB))

    with open_disk(file_node(raw, "raw")) as disk:
        first = next(disk.pieces())

    assert first.data == raw.read_bytes()[:MIB]


def test_a_disk_that_cannot_be_read_is_an_error_with_the_tools_words(tmp_path: Path) -> None:
    path = tmp_path / "x.qcow2"
    path.write_bytes(b"no qcow2 at all")

    with (
        pytest.raises(IntegrityError, match=r"cannot read .*x\.qcow2: .*not in qcow2 format"),
        open_disk(file_node(path, "qcow2")) as disk,
    ):
        list(disk.pieces())
