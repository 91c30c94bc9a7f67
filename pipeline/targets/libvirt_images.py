# SPDX-License-Identifier: Apache-2.0
"""How does an image get into a storage pool of libvirt's, so that half of one never counts?

    kubekiln-debian-13-<digest>.<sha256>.qcow2         what was sent, perhaps not all of it yet
    kubekiln-debian-13-<digest>.<sha256>.qcow2.whole   its checksum, written when it was read back

A volume can't be renamed; a second one (`virStorageVolCreateXMLFrom`) would cost the daemon's host
the image's size in writes once more.
"""

from __future__ import annotations

from typing import Any

from kubekiln.errors import IntegrityError, KubekilnError
from pipeline.targets.libvirt_volumes import (
    base_of,
    drop_volume,
    find_volume,
    make_empty,
    read_bytes,
    refresh,
    send_bytes,
    send_file,
    sha256_of,
    size_of,
    volume_names,
)
from pipeline.targets.platform import Advance, DiskImage, RemoteImage

_MIB = 1 << 20
_WHOLE = ".whole"


def image_volume(image: DiskImage) -> str:
    """Name the volume of this content: an upload goes on only with bytes of its own."""
    return f"{image.remote_name}.{image.sha256[:12]}.qcow2"


def find_image(connection: Any, pool: Any, image: DiskImage) -> RemoteImage | None:
    """Look for an image that is as long as it should be and has its checksum beside it."""
    refresh(pool)
    name = image_volume(image)
    volume, whole = find_volume(pool, name), find_volume(pool, name + _WHOLE)
    if volume is None or whole is None or size_of(volume) != image.size:
        return None
    if read_bytes(connection, whole) != _line(image):
        return None
    return RemoteImage(name, image.remote_name)


def upload_image(connection: Any, pool: Any, image: DiskImage, advance: Advance) -> RemoteImage:
    """Send what isn't there yet, read all of it back, and write that it is whole."""
    name = image_volume(image)
    refresh(pool)
    drop_volume(pool, name + _WHOLE)
    volume = find_volume(pool, name)
    done = size_of(volume) if volume else 0
    if done > image.size:
        drop_volume(pool, name)
        volume, done = None, 0
    _check_room(pool, image.size - done)
    volume = volume or make_empty(pool, name)
    advance(done)
    if done < image.size:
        send_file(connection, volume, image.path, advance, start=done)
    if sha256_of(connection, volume) != image.sha256:
        raise IntegrityError(
            f"{volume.path()} is not what was sent there",
            hint="try again; if it happens again, look at that host's disk",
        )
    send_bytes(connection, make_empty(pool, name + _WHOLE), _line(image))
    return RemoteImage(name, image.remote_name)


def drop_image(pool: Any, name: str) -> None:
    """Remove an image, what makes it whole first; raises KubekilnError if a disk is made of it."""
    volume = find_volume(pool, name)
    if volume is not None:
        path = volume.path()
        disks = [n for n in volume_names(pool) if n.endswith("_disk.qcow2")]
        users = [n for n in disks if base_of(find_volume(pool, n)) == path]
        if users:
            raise KubekilnError(
                f"{name} is in use: {', '.join(users)} is a layer on it",
                hint="`kubekiln destroy` the machines first",
            )
    drop_volume(pool, name + _WHOLE)
    drop_volume(pool, name)


def _check_room(pool: Any, needed: int) -> None:
    available = pool.info()[3]
    if available < needed:
        raise KubekilnError(
            f"storage pool {pool.name()} has {available // _MIB} MiB left, "
            f"the image needs {-(-needed // _MIB)} MiB",
            hint="free some room in the storage pool, or name another one as `pool`",
        )


def _line(image: DiskImage) -> bytes:
    return f"{image.sha256}  {image_volume(image)}\n".encode()
