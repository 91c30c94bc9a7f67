# SPDX-License-Identifier: Apache-2.0
"""Where on the disk is what? (BIOS-boot, EFI system partition, root last so that it can grow.)"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from kubekiln.process import Command, Runner

SECTOR = 512
MIB = 1 << 20
ROOT_LABEL = "kubekiln-root"
# Not KUBEKILN: a machine's key to its user-data comes on a disk of that label (docs/secrets.md).
ESP_LABEL = "ESP"

BIOS_BOOT_TYPE = "21686148-6449-6E6F-744E-656564454649"
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
# By the Discoverable Partitions Specification.
ROOT_TYPES = {
    "amd64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    "arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
}


@dataclass(frozen=True)
class Partition:
    """One entry of the partition table; sizes and places are whole MiB."""

    name: str
    type: str
    uuid: str
    start_mib: int
    size_mib: int

    @property
    def start(self) -> int:
        return self.start_mib * MIB

    @property
    def size(self) -> int:
        return self.size_mib * MIB


@dataclass(frozen=True)
class Layout:
    """A whole disk. All identifiers come from one seed: equal inputs give equal disks."""

    size_mib: int
    uuid: str
    bios_boot: Partition
    esp: Partition
    root: Partition
    filesystem_uuid: str
    hash_seed: str
    esp_serial: str

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return (self.bios_boot, self.esp, self.root)


# FAT32 (which some firmware insists on) has at least 65,525 clusters.
_ESP_MIB = 64
_FIRST_MIB = 1
_BACKUP_TABLE_MIB = 1


def make_layout(*, size_mib: int, architecture: str, seed: str) -> Layout:
    """Lay out a disk of `size_mib`."""

    def identify(name: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"kubekiln:{seed}:{name}"))

    bios_boot = Partition("bios", BIOS_BOOT_TYPE, identify("bios"), _FIRST_MIB, 1)
    esp = Partition("esp", ESP_TYPE, identify("esp"), _FIRST_MIB + 1, _ESP_MIB)
    start = esp.start_mib + esp.size_mib
    root = Partition(
        "root", ROOT_TYPES[architecture], identify("root"), start,
        size_mib - start - _BACKUP_TABLE_MIB,
    )  # fmt: skip
    return Layout(
        size_mib=size_mib,
        uuid=identify("disk"),
        bios_boot=bios_boot,
        esp=esp,
        root=root,
        filesystem_uuid=identify("filesystem"),
        hash_seed=identify("hash"),
        esp_serial=identify("serial")[:8],
    )


def sfdisk_script(layout: Layout) -> str:
    """Describe the table in sfdisk's language."""
    lines = [
        "label: gpt",
        f"label-id: {layout.uuid}",
        "unit: sectors",
        f"first-lba: {MIB // SECTOR}",
    ]
    for part in layout.partitions:
        lines.append(
            f"start={part.start // SECTOR}, size={part.size // SECTOR}, type={part.type}, "
            f'uuid={part.uuid}, name="{part.name}"'
        )
    return "\n".join(lines) + "\n"


def write_table(raw: Path, layout: Layout, *, runner: Runner) -> None:
    """Make the (sparse) disk file and its partition table."""
    with raw.open("wb") as disk:
        disk.truncate(layout.size_mib * MIB)
    runner.run(
        Command(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--wipe=never", raw],
                stdin=sfdisk_script(layout).encode())
    )  # fmt: skip
