# SPDX-License-Identifier: Apache-2.0
"""How does a disk's root file system become a tar, with all that files have?

For what brings a kernel or a disk layout of its own: containers (LXC, Incus), MAAS. Boot loader and
kernel of the EFI system partition are not in it.
"""

from __future__ import annotations

import itertools
import stat
import struct
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, cast

from kubekiln.errors import IntegrityError, KubekilnError
from pipeline.disk.ext4 import Ext4, Inode, Read
from pipeline.disk.layout import SECTOR
from pipeline.disk.nbd import Disk
from pipeline.disk.xattrs import read_xattrs

_ROOT = "root"
_TYPES: Mapping[int, bytes] = MappingProxyType(
    {
        stat.S_IFBLK: tarfile.BLKTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE,
        stat.S_IFDIR: tarfile.DIRTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
        stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFREG: tarfile.REGTYPE,
    }
)


_Member = tuple[tarfile.TarInfo, Iterator[bytes]]


def write_root_tar(disk: Disk, out: Path) -> None:
    """Write the tar, in POSIX's format of 2001 (`pax`), which knows extended attributes."""
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in _members(Ext4(_root_reader(disk))):
            archive.addfile(member, cast("IO[bytes]", _Stream(content)))


def check_root_tar(disk: Disk, path: Path) -> None:
    """Compare a tar with the disk, file by file; raises IntegrityError if they differ."""
    expected = _members(Ext4(_root_reader(disk)))
    try:
        with tarfile.open(path, "r:") as archive:
            for wanted, found in itertools.zip_longest(expected, archive):
                if wanted is None or found is None or not _same(wanted, archive, found):
                    name = wanted[0].name if wanted else found.name
                    raise IntegrityError(f"{path.name} is not the root of the disk: {name} differs")
    except tarfile.TarError as error:
        raise IntegrityError(f"{path.name} is not a whole tar: {error}") from error


def _members(filesystem: Ext4) -> Iterator[_Member]:
    """Describe each file as a member, and give its content."""
    seen: dict[int, str] = {}
    for path, inode in filesystem.walk():
        kind = _TYPES.get(stat.S_IFMT(inode.mode))
        if kind is None:  # a socket: there is nobody behind it any more
            continue
        member = tarfile.TarInfo(path)
        member.type, member.mode = kind, stat.S_IMODE(inode.mode)
        member.uid, member.gid, member.mtime = inode.uid, inode.gid, inode.mtime
        if inode.number in seen:
            member.type, member.linkname = tarfile.LNKTYPE, seen[inode.number]
            yield member, iter(())
            continue
        seen[inode.number] = path
        member.pax_headers = {
            f"SCHILY.xattr.{name}": value.decode(errors="surrogateescape")
            for name, value in read_xattrs(filesystem, inode).items()
        }
        yield _filled(member, inode, filesystem)


def _filled(member: tarfile.TarInfo, inode: Inode, filesystem: Ext4) -> _Member:
    """Add what only a file of this type has."""
    if member.type == tarfile.REGTYPE:
        member.size = inode.size
        return member, filesystem.content(inode)
    if member.type == tarfile.SYMTYPE:
        member.linkname = filesystem.target(inode)
    if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = inode.device
    return member, iter(())


def _same(expected: _Member, archive: tarfile.TarFile, found: tarfile.TarInfo) -> bool:
    wanted, content = expected
    if _facts(wanted) != _facts(found):
        return False
    if not wanted.isreg():
        return True
    file = archive.extractfile(found)
    return file is not None and all(file.read(len(part)) == part for part in content)


def _facts(member: tarfile.TarInfo) -> tuple[object, ...]:
    attributes = {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")}
    return (
        member.name, member.type, member.mode, member.uid, member.gid, member.mtime, member.size,
        member.linkname, member.devmajor, member.devminor, attributes,
    )  # fmt: skip


def _root_reader(disk: Disk) -> Read:
    start = _root_offset(disk)
    return lambda offset, length: disk.read(start + offset, min(length, disk.size - start - offset))


def _root_offset(disk: Disk) -> int:
    """Find the root in the partition table (UEFI 2.10, §5.3)."""
    header = disk.read(SECTOR, SECTOR)
    if header[:8] != b"EFI PART":
        raise KubekilnError("the disk has no GPT")
    first, count, size = struct.unpack_from("<QII", header, 72)
    table = disk.read(first * SECTOR, count * size)
    for at in range(0, len(table), size):
        entry = table[at : at + size]
        if entry[56:128].decode("utf-16-le").rstrip("\0") == _ROOT:
            return int(struct.unpack_from("<Q", entry, 32)[0]) * SECTOR
    raise KubekilnError(f"the disk has no partition named {_ROOT!r}")


class _Stream:
    """What tarfile reads a member from; it asks for as much at a time as there is."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._held = parts, memoryview(b"")

    def read(self, size: int) -> bytes:
        """Give some bytes, fewer than `size` only at the end."""
        given = b""
        while len(given) < size:
            if not self._held:
                self._held = memoryview(next(self._parts, b""))
                if not self._held:
                    break
            part = self._held[: size - len(given)]
            given, self._held = given + part, self._held[len(part) :]
        return given
