# SPDX-License-Identifier: Apache-2.0
"""How does a disk become the vmdk that VMware's importers take? (Stream-optimized.)

Laid out as VMware's own exports are ("Virtual Disk Format 5.0", VMware's technical note): what says
where the grains are comes after them, and a footer and an end of the stream are there. qemu-img
writes no such end, and VMware's ovftool and Workstation, which hash a vmdk while they take it in,
then find that it isn't what an OVA's manifest says. (Seen by CoreOS, Home Assistant, osbuild.)
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.disk.parallel import map_ahead
from pipeline.disk.pieces import CHUNK, ZEROS, Piece, whole_chunks

SECTOR = 512
GRAIN = 64 << 10
"""A disk is a whole number of these."""

_GRAINS_OF_TABLE = 512
_TABLE_BYTES = 4 * _GRAINS_OF_TABLE
_DESCRIPTOR_SECTORS = 20
_FIRST_GRAIN = GRAIN // SECTOR
# Newlines are checked; grains are deflated, and told by markers.
_FLAGS = 1 << 0 | 1 << 16 | 1 << 17
_VERSION = 3
_DEFLATE = 1
_AT_END = 0xFFFFFFFFFFFFFFFF
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_GRAIN_MARKER = struct.Struct("<QI")
_MARKER = struct.Struct("<QII496x")
_END, _TABLE, _DIRECTORY, _FOOTER = 0, 1, 2, 3

_DESCRIPTOR = """\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={cid}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "{name}.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "{content_id}"
ddb.toolsInstallType = "4"
ddb.toolsVersion = "2147483647"
ddb.virtualHWVersion = "4"
"""
# lsilogic: what a SCSI disk is there, whatever the controller (the OVF names that). Tools: the
# distribution's open-vm-tools, if any. Hardware: not looked at since ESXi 4.


def write_vmdk(pieces: Iterable[Piece], size: int, out: Path, *, name: str) -> None:
    """Write a disk of `size` bytes, a whole number of grains; equal disks give equal files."""
    assert size % GRAIN == 0
    with out.open("wb") as file:
        _Stream(file, size, name).write(pieces)


class _Stream:
    """A vmdk that is written, from its first byte to its last."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self._size, self._name = file, size, name
        self._sector = 0
        self._tables: list[int] = []
        self._table: list[int] = []

    def write(self, pieces: Iterable[Piece]) -> None:
        self._put(self._header(_AT_END))
        self._put(_descriptor(self._name, self._size))
        self._put(bytes((_FIRST_GRAIN - self._sector) * SECTOR))
        for number, grains in enumerate(map_ahead(_deflate, whole_chunks(pieces))):
            for index, grain in enumerate(grains):
                self._put_grain(number * (CHUNK // GRAIN) + index, grain)
        if self._table:
            self._end_table()
        directory = struct.pack(f"<{len(self._tables)}I", *self._tables)
        place = self._put_marked(_DIRECTORY, directory)
        self._put_marked(_FOOTER, self._header(place))
        self._put(_MARKER.pack(0, 0, _END))

    def _put(self, content: bytes) -> None:
        self._file.write(content)
        self._sector += len(content) // SECTOR

    def _put_grain(self, number: int, deflated: bytes | None) -> None:
        self._table.append(self._sector if deflated else 0)
        if deflated:
            marker = _GRAIN_MARKER.pack(number * (GRAIN // SECTOR), len(deflated))
            self._put(_filled(marker + deflated))
        if len(self._table) == _GRAINS_OF_TABLE:
            self._end_table()

    def _end_table(self) -> None:
        """Write where the last grains are; a table that would be empty is left out."""
        place = 0
        if any(self._table):
            table = struct.pack(f"<{len(self._table)}I", *self._table)
            place = self._put_marked(_TABLE, table.ljust(_TABLE_BYTES, b"\0"))
        self._tables.append(place)
        self._table = []

    def _put_marked(self, kind: int, content: bytes) -> int:
        """Write something that isn't a grain; gives its sector, behind its marker."""
        content = _filled(content)
        self._put(_MARKER.pack(len(content) // SECTOR, 0, kind))
        place = self._sector
        self._put(content)
        return place

    def _header(self, directory: int) -> bytes:
        return _HEADER.pack(
            b"KDMV", _VERSION, _FLAGS, self._size // SECTOR, GRAIN // SECTOR, 1,
            _DESCRIPTOR_SECTORS, _GRAINS_OF_TABLE, 0, directory, _FIRST_GRAIN, 0, b"\n \r\n",
            _DEFLATE,
        )  # fmt: skip


def _descriptor(name: str, size: int) -> bytes:
    """Describe the disk; its identity comes from its name, which has the image's digest."""
    identity = hashlib.sha256(name.encode()).hexdigest()
    text = _DESCRIPTOR.format(
        cid=identity[:8],
        # The last part is the short id.
        content_id=identity[8:32] + identity[:8],
        cylinders=min(-(-size // (255 * 63 * SECTOR)), 65535),
        name=name,
        sectors=size // SECTOR,
    )
    return text.encode().ljust(_DESCRIPTOR_SECTORS * SECTOR, b"\0")


def _deflate(piece: Piece) -> list[bytes | None]:
    """Deflate the grains of a chunk; None for those of zeros."""
    if piece.data is None:
        return [None] * (piece.length // GRAIN)
    return list(_grains(piece.data))


def _grains(data: bytes) -> Iterator[bytes | None]:
    for at in range(0, len(data), GRAIN):
        grain = data[at : at + GRAIN]
        yield None if grain == ZEROS[:GRAIN] else zlib.compress(grain)


def _filled(content: bytes) -> bytes:
    return content.ljust(-(-len(content) // SECTOR) * SECTOR, b"\0")
