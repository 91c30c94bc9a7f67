# SPDX-License-Identifier: Apache-2.0
"""How does a vmdk become an OVA, and what is in one?

A ustar archive, in the order in which an importer that reads a stream wants it: the descriptor, the
manifest with the checksums, the disk (OVF 1.1, §5.3 and §5.4).
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.files import sha256_bytes, storage_errors, sync_dir
from pipeline.disk.ovf import Appliance, render_descriptor

_CHUNK = 4 << 20
_SHA256_HEX = 64
# What 11 octal digits of a ustar header can say.
_MOST_BYTES = (8 << 30) - 1


@dataclass(frozen=True)
class Ova:
    """An OVA's descriptor, and where in the file its disk lies."""

    descriptor: str
    disk_name: str
    disk_offset: int
    disk_size: int


def write_ova(vmdk: Path, out: Path, appliance: Appliance) -> None:
    """Make an OVA of a stream-optimized vmdk, which *becomes* the OVA: nothing is there twice.

    Its bytes are moved behind the headers within the file, which is then given its name. If that is
    broken off, the vmdk is lost and there is no OVA.
    """
    size = vmdk.stat().st_size
    if size > _MOST_BYTES:
        raise KubekilnError(f"a disk of {size} bytes is too large for an OVA", where=str(vmdk))
    descriptor = render_descriptor(appliance, vmdk_size=size).encode()
    with storage_errors(out):
        with vmdk.open("r+b") as file:
            sha256 = _move_up(file, len(_head(appliance, descriptor, "0" * _SHA256_HEX, size)))
            end = file.seek(0, os.SEEK_END)
            file.write(bytes(_to_multiple(size, tarfile.BLOCKSIZE) - size))
            # An archive ends with two empty blocks, and is a whole number of records.
            end = file.tell() + 2 * tarfile.BLOCKSIZE
            file.truncate(_to_multiple(end, tarfile.RECORDSIZE))
            file.seek(0)
            file.write(_head(appliance, descriptor, sha256, size))
            file.flush()
            os.fsync(file.fileno())
        vmdk.rename(out)
        sync_dir(out.parent)


def read_ova(path: Path) -> Ova:
    """Find descriptor and disk; raises KubekilnError if it isn't an OVA of one disk."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = {Path(member.name).suffix: member for member in archive}
            text = archive.extractfile(members[".ovf"])
            disk = members[".vmdk"]
            assert text is not None
            return Ova(text.read().decode(), disk.name, disk.offset_data, disk.size)
    except (tarfile.TarError, KeyError, UnicodeDecodeError) as error:
        raise KubekilnError(f"{path} is not an OVA with a disk: {error}") from error


def check_ova(path: Path) -> None:
    """Hash what is in an OVA; raises IntegrityError if the manifest says anything else."""
    sums, manifest = {}, ""
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            if member.name.endswith(".mf"):
                manifest = file.read().decode()
                continue
            digest = hashlib.sha256()
            while part := file.read(_CHUNK):
                digest.update(part)
            sums[member.name] = digest.hexdigest()
    if manifest != _manifest(sums):
        raise IntegrityError(f"what is in {path.name} isn't what its manifest says")


def _head(appliance: Appliance, descriptor: bytes, vmdk_sha256: str, vmdk_size: int) -> bytes:
    """Give all that is before the disk's first byte."""
    name = f"{appliance.name}.ovf"
    sums = {name: sha256_bytes(descriptor), appliance.disk_name: vmdk_sha256}
    manifest = _manifest(sums).encode()
    files = ((name, descriptor), (f"{appliance.name}.mf", manifest))
    whole = b"".join(_member(name, len(content)) + _filled(content) for name, content in files)
    return whole + _member(appliance.disk_name, vmdk_size)


def _manifest(sums: Mapping[str, str]) -> str:
    # Without a blank before the bracket: VMware's importers take that for another algorithm.
    return "".join(f"SHA256({name})= {sha256}\n" for name, sha256 in sums.items())


def _member(name: str, size: int) -> bytes:
    """Give a member's header; its owner is nobody, its time 0: equal disks give equal files."""
    about = tarfile.TarInfo(name)
    about.size = size
    return about.tobuf(tarfile.USTAR_FORMAT)


def _filled(content: bytes) -> bytes:
    return content.ljust(_to_multiple(len(content), tarfile.BLOCKSIZE), b"\0")


def _to_multiple(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _move_up(file: BinaryIO, by: int) -> str:
    """Move a file's whole content towards its end; gives the content's SHA-256.

    A chunk is read before the one ahead of it is written over its beginning.
    """
    assert by <= _CHUNK
    digest = hashlib.sha256()
    at, held = 0, file.read(_CHUNK)
    while held:
        digest.update(held)
        following = file.read(_CHUNK)
        file.seek(at + by)
        file.write(held)
        at += len(held)
        file.seek(at + len(following))
        held = following
    return digest.hexdigest()
