# SPDX-License-Identifier: Apache-2.0
"""How do files get into a storage pool of libvirt's, and out of it?

All over libvirt's connection, so that it is the same for a daemon elsewhere. libvirt can neither
rename a volume nor remember anything of one but its name: what is whole is said by another volume.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree as ET

from pipeline.targets.libvirt_connection import libvirt_module, none_if, try_to
from pipeline.targets.platform import Advance

POOLS_OF_FILES = ("dir", "fs", "netfs")
"""Types of pools whose volumes are files: others can't hold a qcow2 layer on another volume."""

# As libvirt's own binding does; the library cuts it into messages of its protocol. Handing over
# one message (256 KiB) at a time was measurably slower.
_CHUNK = 1 << 20
_ZEROS = bytes(1 << 20)
_IS_HOLE = -3
# A qcow2 without data is four clusters of 64 KiB: header, reference counts and table, first table.
_BLANK = 4 << 16


def refresh(pool: Any) -> None:
    """Let the daemon look at what is in the pool; not while it makes a volume there, which it
    refuses (as an internal error)."""
    none_if(("VIR_ERR_INTERNAL_ERROR",), lambda: pool.refresh(0))


def find_volume(pool: Any, name: str) -> Any:
    """Give a volume, or None."""
    return none_if(("VIR_ERR_NO_STORAGE_VOL",), lambda: pool.storageVolLookupByName(name))


def drop_volume(pool: Any, name: str) -> None:
    """Remove a volume; fine if there is none."""
    volume = find_volume(pool, name)
    if volume is not None:
        none_if(("VIR_ERR_NO_STORAGE_VOL",), lambda: volume.delete(0))


def volume_names(pool: Any) -> list[str]:
    """List the volumes of a pool."""
    return sorted(pool.listVolumes())


def size_of(volume: Any) -> int:
    """Ask for the size of a volume's file, which isn't that of the disk in it."""
    flag = libvirt_module().VIR_STORAGE_VOL_GET_PHYSICAL
    return int(volume.infoFlags(flag)[2])


def make_empty(pool: Any, name: str) -> Any:
    """Make a file of no bytes, which grows with what is sent.

    Not one in the format of its content: libvirt would write a header first, of which something
    would stay where what is sent has a hole.
    """
    return pool.createXML(_xml(name, 0), 0)


def make_layer(pool: Any, name: str, *, on: Any, size: int) -> Any:
    """Make a disk that begins as another one, which stays as it is."""
    return pool.createXML(_xml(name, size, form="qcow2", base=on.path()), 0)


def make_disk(pool: Any, name: str, *, size: int) -> Any:
    """Make an empty disk, whose file grows with what is written."""
    return pool.createXML(_xml(name, size, form="qcow2"), 0)


def is_blank(volume: Any) -> bool:
    """Tell of a qcow2 disk of `make_disk` whether it is as it was made.

    What is written first takes a cluster for itself and one for the table that names it.
    """
    return size_of(volume) <= _BLANK


def base_of(volume: Any) -> str | None:
    """Tell the path of the volume on which one is a layer."""
    return ET.fromstring(volume.XMLDesc(0)).findtext("backingStore/path") or None


def send_file(connection: Any, volume: Any, source: Path, advance: Advance, *, start: int) -> None:
    """Send a file, from a byte of it on, without its holes."""
    module = libvirt_module()

    def transfer(stream: Any) -> None:
        volume.upload(stream, start, 0, module.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
        with source.open("rb") as file:
            for at, length, is_hole in _extents(file, start):
                if is_hole:
                    stream.sendHole(length)
                    advance(length)
                else:
                    _send_bytes(stream, file, at, length, advance)

    _streamed(connection, transfer)


def send_bytes(connection: Any, volume: Any, content: bytes) -> None:
    """Send a small file that is in memory."""

    def transfer(stream: Any) -> None:
        volume.upload(stream, 0, 0, 0)
        left = memoryview(content)
        while left:
            left = left[stream.send(bytes(left[:_CHUNK])) :]

    _streamed(connection, transfer)


def sha256_of(connection: Any, volume: Any) -> str:
    """Read a volume back; the SHA-256 of its file."""
    digest = hashlib.sha256()
    _receive(connection, volume, digest.update)
    return digest.hexdigest()


def read_bytes(connection: Any, volume: Any) -> bytes:
    """Read a small volume."""
    content = bytearray()
    _receive(connection, volume, content.extend)
    return bytes(content)


def _receive(connection: Any, volume: Any, take: Callable[[bytes], object]) -> None:
    module = libvirt_module()

    def transfer(stream: Any) -> None:
        volume.download(stream, 0, 0, module.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        while got := stream.recvFlags(_CHUNK, module.VIR_STREAM_RECV_STOP_AT_HOLE):
            if got != _IS_HOLE:
                take(got)
                continue
            left = stream.recvHole()
            while left:
                take(_ZEROS[:left])
                left -= min(left, len(_ZEROS))

    _streamed(connection, transfer)


def _streamed(connection: Any, transfer: Callable[[Any], None]) -> None:
    """Finish a stream, which says whether all of it arrived, or abort it."""
    stream = connection.newStream()
    try:
        transfer(stream)
        stream.finish()
    except BaseException:
        try_to(stream.abort)
        raise


def _send_bytes(stream: Any, file: BinaryIO, at: int, length: int, advance: Advance) -> None:
    file.seek(at)
    while length:
        chunk = memoryview(file.read(min(_CHUNK, length)))
        if not chunk:
            return  # it became shorter: the checksums will differ
        length -= len(chunk)
        while chunk:
            sent = stream.send(bytes(chunk))
            advance(sent)
            chunk = chunk[sent:]


def _extents(file: BinaryIO, start: int) -> Iterator[tuple[int, int, bool]]:
    """Give the parts of a file from `start` on: where, how long, and whether it is a hole."""
    at, end = start, file.seek(0, os.SEEK_END)
    while at < end:
        data = _seek(file, at, os.SEEK_DATA, end)
        if data > at:
            yield at, data - at, True
        at = _seek(file, data, os.SEEK_HOLE, end) if data < end else end
        if at > data:
            yield data, at - data, False


def _seek(file: BinaryIO, at: int, what: int, end: int) -> int:
    try:
        return min(end, os.lseek(file.fileno(), at, what))
    except OSError:  # ENXIO: no data from there on
        return end


def _xml(name: str, size: int, *, form: str = "raw", base: str | None = None) -> str:
    volume = ET.Element("volume", type="file")
    ET.SubElement(volume, "name").text = name
    ET.SubElement(volume, "capacity", unit="bytes").text = str(size)
    ET.SubElement(volume, "allocation", unit="bytes").text = "0"
    target = ET.SubElement(volume, "target")
    ET.SubElement(target, "format", type=form)
    # Seeds hold keys, disks hold what is made of them.
    ET.SubElement(ET.SubElement(target, "permissions"), "mode").text = "0600"
    if form == "qcow2":
        ET.SubElement(target, "compat").text = "1.1"
    if base:
        below = ET.SubElement(volume, "backingStore")
        ET.SubElement(below, "path").text = base
        ET.SubElement(below, "format", type="qcow2")
    return ET.tostring(volume, encoding="unicode")
