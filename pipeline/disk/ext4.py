# SPDX-License-Identifier: Apache-2.0
"""What is in an ext4 file system, without mounting it, and without a file that holds it?

As much as mke2fs makes: extents, directories, links, devices, extended attributes. What it doesn't
make is refused by its feature bit. https://docs.kernel.org/filesystems/ext4/index.html
"""

from __future__ import annotations

import functools
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kubekiln.errors import KubekilnError

Read = Callable[[int, int], bytes]
"""Gives bytes of the file system: offset, length."""

_ROOT = 2
_MAGIC, _EXTENTS_MAGIC = 0xEF53, 0xF30A
# filetype, extents, 64bit, flex_bg, csum_seed, large_dir: none of them changes where a file is,
# beyond what is read here. A journal to be replayed (4) would.
_UNDERSTOOD = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x4000
_64BIT = 0x80
_HAS_EXTENTS = 0x80000
_UNWRITTEN = 32768
READ = 1 << 20
"""The most that is read of a file at a time."""
# Of the disk's compressed clusters, which are unpacked whole for each read.
_CACHED = 256 << 10


@dataclass(frozen=True)
class Inode:
    """A file of any kind."""

    number: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int
    raw: bytes

    @property
    def map(self) -> bytes:
        """The 60 bytes that say where its content is, or are it."""
        return self.raw[40:100]

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device, in the old form of 16 bits or the new one."""
        old, new = struct.unpack_from("<II", self.map)
        if old or not new:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, (new & 0xFF) | (new >> 12 & 0xFFF00)


class Ext4:
    """A file system that is read."""

    def __init__(self, read: Read) -> None:
        self._read_disk = read
        self._cache = functools.lru_cache(64)(lambda block: read(block * _CACHED, _CACHED))
        block = read(1024, 1024)
        (magic,) = struct.unpack_from("<H", block, 56)
        if magic != _MAGIC:
            raise KubekilnError("the root partition holds no ext4")
        (features,) = struct.unpack_from("<I", block, 96)
        if features & ~_UNDERSTOOD:
            raise KubekilnError(
                f"ext4 with features {features & ~_UNDERSTOOD:#x} isn't understood",
                hint="4 is a journal to be replayed: the file system wasn't unmounted",
            )
        first, log_size = struct.unpack_from("<II", block, 20)
        self._block_size = 1024 << log_size
        (self._inodes_per_group,) = struct.unpack_from("<I", block, 40)
        (self._inode_size,) = struct.unpack_from("<H", block, 88)
        (self._group_size,) = struct.unpack_from("<H", block, 254) if features & _64BIT else (32,)
        self._groups_at = (first + 1) * self._block_size

    def walk(self) -> Iterator[tuple[str, Inode]]:
        """List all files, in order, each directory before what is in it; the root is `.`."""
        yield from self._walk(".", self.inode(_ROOT))

    def inode(self, number: int) -> Inode:
        """Read an inode."""
        group, index = divmod(number - 1, self._inodes_per_group)
        about = self._read(self._groups_at + group * self._group_size, self._group_size)
        (table,) = struct.unpack_from("<I", about, 8)
        if self._group_size >= 64:
            table |= struct.unpack_from("<I", about, 40)[0] << 32
        raw = self._read(table * self._block_size + index * self._inode_size, self._inode_size)
        mode, uid, size, mtime = struct.unpack_from("<HHI8xi", raw)
        gid, links = struct.unpack_from("<HH", raw, 24)
        (size_high,) = struct.unpack_from("<I", raw, 108)
        uid_high, gid_high = struct.unpack_from("<HH", raw, 120)
        if len(raw) > 140:
            mtime += (struct.unpack_from("<I", raw, 136)[0] & 3) << 32
        return Inode(number, mode, uid_high << 16 | uid, gid_high << 16 | gid,
                     size_high << 32 | size, mtime, links, raw)  # fmt: skip

    def content(self, inode: Inode) -> Iterator[bytes]:
        """Read a file from its beginning to its end; what was never written is zeros."""
        at = 0
        for first, count, start in self._extents(inode):
            yield from _zeros(min(first * self._block_size, inode.size) - at)
            at = first * self._block_size
            until = min(at + count * self._block_size, inode.size)
            while at < until:
                length = min(READ, until - at)
                yield self._read(start * self._block_size + at - first * self._block_size, length)
                at += length
        yield from _zeros(inode.size - at)

    def target(self, inode: Inode) -> str:
        """Tell where a symbolic link leads; a short one is kept in the inode."""
        short = inode.size < 60
        whole = inode.map[: inode.size] if short else b"".join(self.content(inode))
        return whole.decode(errors="surrogateescape")

    def attribute_areas(self, inode: Inode) -> Iterator[tuple[bytes, int, int]]:
        """Give bytes with extended attributes, where entries begin, and what values count from."""
        (extra,) = struct.unpack_from("<H", inode.raw, 128) if self._inode_size > 128 else (0,)
        body = 128 + extra
        if len(inode.raw) >= body + 4:
            yield inode.raw[body:], 4, 4
        (low,) = struct.unpack_from("<I", inode.raw, 104)
        (high,) = struct.unpack_from("<H", inode.raw, 118)
        if block := high << 32 | low:
            yield self._read(block * self._block_size, self._block_size), 32, 0

    def _walk(self, path: str, inode: Inode) -> Iterator[tuple[str, Inode]]:
        yield path, inode
        if not stat.S_ISDIR(inode.mode):
            return
        for name, number in sorted(self._entries(inode)):
            if (path, name) != (".", "lost+found"):
                yield from self._walk(f"{path}/{name}", self.inode(number))

    def _entries(self, directory: Inode) -> Iterator[tuple[str, int]]:
        """List a directory; its index, if it has one, lies in entries without an inode."""
        content, at = b"".join(self.content(directory)), 0
        while at < len(content):
            number, length, name_length = struct.unpack_from("<IHB", content, at)
            name = content[at + 8 : at + 8 + name_length].decode(errors="surrogateescape")
            if number and name not in (".", ".."):
                yield name, number
            at += length

    def _extents(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """List first block, number of blocks and place of what a file has on the disk."""
        (flags,) = struct.unpack_from("<I", inode.raw, 32)
        if not inode.size:
            return
        if not flags & _HAS_EXTENTS:
            raise KubekilnError(f"inode {inode.number} has no extents: not made by mke2fs -t ext4")
        yield from self._leaves(inode.map)

    def _leaves(self, node: bytes) -> Iterator[tuple[int, int, int]]:
        magic, count, _, depth = struct.unpack_from("<HHHH", node)
        if magic != _EXTENTS_MAGIC:
            raise KubekilnError("ext4: a tree of extents is broken")
        for number in range(count):
            at = 12 * (number + 1)
            if depth:
                low, high = struct.unpack_from("<IH", node, at + 4)
                place = (high << 32 | low) * self._block_size
                yield from self._leaves(self._read(place, self._block_size))
                continue
            first, length, high, low = struct.unpack_from("<IHHI", node, at)
            if length <= _UNWRITTEN:
                yield first, length, high << 32 | low

    def _read(self, offset: int, length: int) -> bytes:
        """Read through a small cache, but for what is large."""
        if length > _CACHED:
            return self._read_disk(offset, length)
        block, start = divmod(offset, _CACHED)
        found: bytes = self._cache(block)[start : start + length]
        if len(found) < length:
            found += self._cache(block + 1)[: length - len(found)]
        return found


def _zeros(length: int) -> Iterator[bytes]:
    while length > 0:
        yield bytes(min(length, READ))
        length -= READ
