# SPDX-License-Identifier: Apache-2.0
"""How does a BIOS find GRUB? (What grub-bios-setup does, but on a file.)

GRUB 2's boot.img (first sector of the disk) loads one sector; that sector, the first of core.img,
holds a list of blocks with the rest. Offsets: grub-core/boot/i386/pc/{boot,diskboot}.S,
include/grub/i386/pc/boot.h.
"""

from __future__ import annotations

import struct
from pathlib import Path

from kubekiln.errors import KubekilnError
from pipeline.disk.layout import SECTOR, Layout

# In the boot sector: what is code, and not the BIOS parameter block or the partition table.
_PARAMETER_BLOCK_END = 0x5A
_PARTITION_TABLE = 0x1B8
_KERNEL_SECTOR = 0x5C
_DRIVE = 0x64
_DRIVE_CHECK = 0x66
_BOOT_DRIVE_OF_BIOS = 0xFF
_NOP = 0x90
# In the first sector of core.img: (first sector u64, count u16, segment u16) of the rest.
_BLOCK_LIST = 0x1F4
_LOAD_SEGMENT = 0x0820


def install_bios_loader(raw: Path, layout: Layout, *, boot: bytes, core: bytes) -> None:
    """Write GRUB into the boot sector and the BIOS-boot partition of a disk file."""
    if len(boot) != SECTOR:
        raise KubekilnError(f"boot.img has {len(boot)} bytes, not {SECTOR}")
    if len(core) > layout.bios_boot.size:
        raise KubekilnError(
            f"core.img has {len(core)} bytes, the BIOS-boot partition {layout.bios_boot.size}"
        )
    first = layout.bios_boot.start // SECTOR
    with raw.open("r+b") as disk:
        there = disk.read(SECTOR)
        disk.seek(0)
        disk.write(boot_sector(boot, there, first))
        disk.seek(layout.bios_boot.start)
        disk.write(linked_core(core, first))


def boot_sector(boot: bytes, there: bytes, core_sector: int) -> bytes:
    """Join boot.img's code with what stays of the disk's first sector (its partition table)."""
    sector = bytearray(there)
    sector[:3] = boot[:3]
    sector[_PARAMETER_BLOCK_END:_PARTITION_TABLE] = boot[_PARAMETER_BLOCK_END:_PARTITION_TABLE]
    struct.pack_into("<Q", sector, _KERNEL_SECTOR, core_sector)
    sector[_DRIVE] = _BOOT_DRIVE_OF_BIOS
    # Where boot.img would distrust the drive number that the BIOS passes; grub-bios-setup takes the
    # jump out for hard disks too.
    sector[_DRIVE_CHECK : _DRIVE_CHECK + 2] = bytes([_NOP, _NOP])
    sector[-2:] = b"\x55\xaa"
    return bytes(sector)


def linked_core(core: bytes, first_sector: int) -> bytes:
    """Tell core.img's first sector where the rest of it is."""
    sectors = -(-len(core) // SECTOR)
    linked = bytearray(core.ljust(sectors * SECTOR, b"\0"))
    struct.pack_into("<QHH", linked, _BLOCK_LIST, first_sector + 1, sectors - 1, _LOAD_SEGMENT)
    return bytes(linked)
