# SPDX-License-Identifier: Apache-2.0
"""Is the disk laid out as promised, and does a BIOS find GRUB on it?"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from cloudinit.protect import KEY_LABEL
from kubekiln.errors import EXIT_USAGE, ConfigError, KubekilnError
from kubekiln.paths import Project
from kubekiln.process import Command, RealRunner, run
from pipeline.cache import Stage
from pipeline.disk.bios import boot_sector, install_bios_loader, linked_core
from pipeline.disk.esp import write_esp
from pipeline.disk.layout import (
    ESP_LABEL,
    MIB,
    ROOT_LABEL,
    SECTOR,
    make_layout,
    sfdisk_script,
    write_table,
)
from pipeline.disk.qcow2 import write_qcow2
from pipeline.disk.readback import DiskReader
from pipeline.model import load_image
from pipeline.stages.disk import make_disk

ROOT = Path(__file__).resolve().parents[2]
LAYOUT = make_layout(size_mib=512, architecture="amd64", seed="test")


def test_partitions_touch_nothing_of_each_other_and_leave_room_for_both_tables() -> None:
    ends = [(part.start_mib, part.start_mib + part.size_mib) for part in LAYOUT.partitions]

    assert ends[0][0] >= 1
    assert all(first[1] <= second[0] for first, second in zip(ends, ends[1:], strict=False))
    assert ends[-1][1] == LAYOUT.size_mib - 1


def test_no_partition_has_the_label_of_a_disk_with_a_machines_key() -> None:
    assert KEY_LABEL not in {ROOT_LABEL, ESP_LABEL}


def test_the_root_is_the_last_partition_so_that_it_can_grow() -> None:
    assert LAYOUT.partitions[-1] is LAYOUT.root


def test_equal_seeds_give_equal_disks_and_others_give_others() -> None:
    again = make_layout(size_mib=512, architecture="amd64", seed="test")
    other = make_layout(size_mib=512, architecture="amd64", seed="other")

    assert again == LAYOUT
    identifiers = {LAYOUT.uuid, LAYOUT.filesystem_uuid, *(p.uuid for p in LAYOUT.partitions)}
    assert len(identifiers) == 5
    assert other.uuid not in identifiers


@pytest.mark.parametrize(
    ("disk", "key"),
    [("disk: {size_mib: 2048}\n", "(disk.size_mib)"), ("", "")],
    ids=["given", "default"],
)
def test_a_disk_that_is_too_small_is_refused_where_its_size_is_given(
    tmp_path: Path, disk: str, key: str
) -> None:
    path, root_tar = tmp_path / "small.yaml", tmp_path / "root.tar"
    base = (ROOT / "configs/images/debian-13.yaml").read_text().partition("\ndisk:")[0]
    path.write_text(f"{base}\n{disk}")
    with root_tar.open("wb") as out:
        out.truncate(5000 * MIB)
    stage = Stage("disk", "Disk image", "d" * 64, ())

    with pytest.raises(ConfigError, match=r"small: it needs 5512 MiB") as caught:
        make_disk(load_image(str(path), Project(ROOT)), stage, root_tar, tmp_path, log=tmp_path)

    (problem,) = caught.value.problems
    assert caught.value.exit_code == EXIT_USAGE
    line = path.read_text().splitlines().index(disk.strip()) + 1 if disk else 1
    assert problem.where == f"{path}:{line} {key}".rstrip()
    assert {p.name for p in tmp_path.iterdir()} == {"small.yaml", "root.tar"}


def test_the_table_is_described_in_whole_sectors() -> None:
    script = sfdisk_script(LAYOUT)

    assert script.startswith(f"label: gpt\nlabel-id: {LAYOUT.uuid}\n")
    assert "start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649" in script


def test_the_boot_sector_keeps_the_partition_table_and_leads_to_the_core() -> None:
    boot, there = b"\x11" * SECTOR, b"\x22" * SECTOR

    sector = boot_sector(boot, there, 2048)

    assert len(sector) == SECTOR
    assert sector[:3] == boot[:3]
    assert sector[3:0x5A] == there[3:0x5A]
    assert struct.unpack_from("<Q", sector, 0x5C) == (2048,)
    assert sector[0x64] == 0xFF
    assert sector[0x66:0x68] == b"\x90\x90"
    assert sector[0x1B8:0x1FE] == there[0x1B8:0x1FE]
    assert sector[-2:] == b"\x55\xaa"


def test_the_core_knows_where_the_rest_of_it_is() -> None:
    linked = linked_core(b"\x33" * (SECTOR * 3 + 1), 2048)

    assert len(linked) == SECTOR * 4
    assert struct.unpack_from("<QHH", linked, 0x1F4) == (2049, 3, 0x0820)


@pytest.mark.parametrize(
    ("boot", "core", "message"),
    [
        (b"x", b"core", "boot.img has 1 bytes"),
        (b"x" * SECTOR, b"x" * (LAYOUT.bios_boot.size + 1), "core.img has"),
    ],
    ids=["wrong boot.img", "core.img too large"],
)
def test_loaders_that_do_not_fit_are_refused(
    tmp_path: Path, boot: bytes, core: bytes, message: str
) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(b"")

    with pytest.raises(KubekilnError, match=message):
        install_bios_loader(raw, LAYOUT, boot=boot, core=core)


@pytest.mark.processes("sfdisk", "mkfs.vfat", "mcopy", "mdir", "mke2fs", "debugfs", "qemu-img")
def test_a_whole_small_disk_is_written_and_read_back_without_root_or_mounts(
    tmp_path: Path,
) -> None:
    runner, raw, tree = RealRunner(), tmp_path / "disk.raw", tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=test\n")
    (tree / "etc/closed").mkdir(mode=0o700)
    esp = tmp_path / "esp"
    (esp / "EFI/BOOT").mkdir(parents=True)
    (esp / "EFI/BOOT/BOOTX64.EFI").write_bytes(b"MZ")

    write_table(raw, LAYOUT, runner=runner)
    offset = f"offset={LAYOUT.root.start}"
    run(
        Command(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, "-E", offset, raw,
                 f"{LAYOUT.root.size // 1024}k"])
    )  # fmt: skip
    write_esp(raw, LAYOUT, tree=esp, scratch=tmp_path, runner=runner)
    install_bios_loader(raw, LAYOUT, boot=b"\x11" * SECTOR, core=b"\x33" * 4096)
    write_qcow2(raw, tmp_path / "disk.qcow2", runner=runner)

    back = tmp_path / "back.raw"
    run(Command(["qemu-img", "convert", "-O", "raw", tmp_path / "disk.qcow2", back]))
    reader = DiskReader(back, tmp_path, runner)
    reader.extract(["/etc", "/nothing"], tmp_path / "out")
    assert [p["name"] for p in reader.table()["partitions"]] == ["bios", "esp", "root"]
    assert reader.table()["id"].lower() == LAYOUT.uuid
    assert reader.root_offset() == LAYOUT.root.start
    assert reader.esp_files() == {"/EFI/", "/EFI/BOOT/", "/EFI/BOOT/BOOTX64.EFI"}
    assert (tmp_path / "out/etc/os-release").read_text() == "ID=test\n"
    owners = reader.owners(["/etc/closed", "/nothing"])
    assert owners["/nothing"] is None
    assert owners["/etc/closed"] is not None
    assert owners["/etc/closed"].mode == 0o700
    assert back.stat().st_size == 512 * MIB
