# SPDX-License-Identifier: Apache-2.0
"""Is a disk image's file of the format that it is said to be?

For platforms that believe what they are told and find out when a machine doesn't boot, or never:
a qcow2 that counts as raw boots as a disk that has a qcow2 on it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType

from kubekiln.errors import IntegrityError
from pipeline.targets.platform import DiskImage, FormatName

# At the beginning of the file. QEMU: docs/interop/qcow2.rst; VMware: virtual disk format 5.0;
# Microsoft: VHD specification 1.0 and MS-VHDX 2.2; cryptsetup: LUKS on-disk format.
_MAGIC: Mapping[bytes, str] = MappingProxyType(
    {
        b"QFI\xfb": "qcow2", b"KDMV": "vmdk", b"# Disk DescriptorFile": "vmdk",
        b"conectix": "vhd", b"vhdxfile": "vhdx", b"LUKS\xba\xbe": "luks",
    }
)  # fmt: skip
_CHECKED: frozenset[FormatName] = frozenset({"raw", "qcow2"})
# Magic, version, backing file's offset and length, cluster bits, size.
_QCOW2 = struct.Struct(">4sIQIIQ")


def check_format(image: DiskImage) -> None:
    """Raise IntegrityError if a raw or qcow2 image is something else, or of another size."""
    if image.format not in _CHECKED:
        return
    with image.path.open("rb") as file:
        head = file.read(64)
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "raw")
    if found != image.format:
        raise _wrong(image, f"is {found}, not {image.format}")
    size = image.size
    if found == "qcow2":
        if len(head) < _QCOW2.size:
            raise _wrong(image, "ends within its header")
        _, _, backing_offset, _, _, size = _QCOW2.unpack_from(head)
        if backing_offset:
            raise _wrong(image, "is a layer on another file")
    if size != image.virtual_size:
        raise _wrong(image, f"is a disk of {size} B instead of {image.virtual_size} B")


def _wrong(image: DiskImage, how: str) -> IntegrityError:
    return IntegrityError(
        f"{image.path.name} {how}", where=str(image.path), hint="remove the file and bake again"
    )
