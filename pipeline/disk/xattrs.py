# SPDX-License-Identifier: Apache-2.0
"""Which extended attributes does a file of an ext4 have, as getxattr(2) would tell them?"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pipeline.disk.ext4 import Ext4, Inode

_MAGIC = 0xEA020000
_ENTRY = struct.Struct("<BBHIII")
_PREFIXES: Mapping[int, str] = MappingProxyType(
    {
        1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.",
        6: "security.", 7: "system.",
    }
)  # fmt: skip
_ACLS = (2, 3)
_ACL_WITH_ID = (2, 8)  # a named user, a named group


def read_xattrs(filesystem: Ext4, inode: Inode) -> dict[str, bytes]:
    """Read all of a file's, in order of their names."""
    found: dict[str, bytes] = {}
    for area, first, values in filesystem.attribute_areas(inode):
        if struct.unpack_from("<I", area)[0] == _MAGIC:
            found |= dict(_entries(area, first, values))
    return dict(sorted(found.items()))


def _entries(area: bytes, at: int, values: int) -> Iterator[tuple[str, bytes]]:
    while at + _ENTRY.size <= len(area) and area[at : at + 4] != bytes(4):
        length, prefix, offset, _, size, _ = _ENTRY.unpack_from(area, at)
        at += _ENTRY.size
        name = _PREFIXES[prefix] + area[at : at + length].decode()
        value = area[values + offset : values + offset + size]
        yield name, _acl(value) if prefix in _ACLS else value
        at += -(-length // 4) * 4


def _acl(stored: bytes) -> bytes:
    """Give an access control list as user space knows it; ext4 leaves out ids that say nothing."""
    told, at = struct.pack("<I", 2), 4
    while at < len(stored):
        tag, permissions = struct.unpack_from("<HH", stored, at)
        at += 4
        identity = 0xFFFFFFFF
        if tag in _ACL_WITH_ID:
            (identity,) = struct.unpack_from("<I", stored, at)
            at += 4
        told += struct.pack("<HHI", tag, permissions, identity)
    return told
