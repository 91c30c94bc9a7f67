# SPDX-License-Identifier: Apache-2.0
"""How does a fixed VHD become a page blob of Azure, whole or not at all?

A page blob has its full size from the beginning and is filled in ranges, in any order, several at
a time; ranges of zeros aren't sent. Its metadata says for which file it was begun; that it is whole
is written last. An attempt that finds a begun one sends only the ranges that it lacks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kubekiln.errors import IntegrityError, KubekilnError
from pipeline.targets.platform import Advance, DiskImage

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

CHUNK = 4 << 20
"""Put Page takes 4 MiB at most: https://learn.microsoft.com/rest/api/storageservices/put-page"""
_PAGE = 512
_MIB = 1 << 20
_FOOTER_COOKIE = b"conectix"

# Names of metadata are C# identifiers.
BEGUN = "kubekiln_begun"
WHOLE = "kubekiln_whole"
Range = tuple[int, int]


def refuse_unfit(image: DiskImage) -> None:
    """Raise unless the file is a VHD that Azure takes: fixed, of whole MiB."""
    with image.path.open("rb") as file:
        file.seek(max(0, image.size - _PAGE))
        fixed = file.read(len(_FOOTER_COOKIE)) == _FOOTER_COOKIE
    if fixed and (image.size - _PAGE) % _MIB == 0 and image.size - _PAGE == image.virtual_size:
        return
    raise KubekilnError(
        f"{image.path.name} is no fixed VHD of whole MiB ({image.size} bytes)",
        where=str(image.path),
        hint="`qemu-img convert -O vpc -o subformat=fixed,force_size=on` writes one",
    )


def is_whole(blob: BlobClient, image: DiskImage) -> bool:
    """Tell whether the blob is there with all of this file."""
    return _metadata(blob, image).get(WHOLE) == image.sha256


def upload_disk(
    blob: BlobClient,
    image: DiskImage,
    advance: Advance,
    *,
    streams: int,
    verify: Literal["md5", "read"],
) -> None:
    """Bring the file there, going on where an earlier attempt ended; what it leaves is whole."""
    refuse_unfit(image)
    there = _begin(blob, image)
    sender = _Sender(blob, os.open(image.path, os.O_RDONLY), there)
    try:
        written = _each(sender.send, image.size, advance, streams)
        whole = _ranges(blob)
        missing = [part for part in written if not _covered(part, whole)]
        if missing:
            raise IntegrityError(f"Azure has lost {len(missing)} ranges of {blob.blob_name}")
        if verify == "read":
            _each(sender.compare, image.size, lambda _n: None, streams)
    finally:
        os.close(sender.file)
    blob.set_blob_metadata({BEGUN: image.sha256, WHOLE: image.sha256, "kubekiln_image": image.name})


def remove(blob: BlobClient) -> None:
    """Remove the blob; fine if it is gone."""
    from azure.core.exceptions import ResourceNotFoundError

    with suppress(ResourceNotFoundError):
        blob.delete_blob()


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Join ranges [start, end) that touch each other."""
    out: list[Range] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def chunks(size: int) -> Iterator[Range]:
    """Cut a file into the ranges that are sent."""
    for start in range(0, size, CHUNK):
        yield start, min(start + CHUNK, size)


@dataclass(frozen=True)
class _Sender:
    blob: BlobClient
    file: int
    there: Sequence[Range]

    def send(self, part: Range) -> bool:
        """Send a range unless it is of zeros or already there; tell whether it must be there."""
        data = self._read(part)
        if data.count(0) == len(data):
            return False
        if _covered(part, self.there):
            self._compare(part, data)
        else:
            self.blob.upload_page(data, part[0], len(data), validate_content="md5")
        return True

    def compare(self, part: Range) -> bool:
        """Read a range back, and raise if it isn't what the file has there."""
        data = self._read(part)
        if data.count(0) != len(data):
            self._compare(part, data)
        return True

    def _read(self, part: Range) -> bytes:
        return os.pread(self.file, part[1] - part[0], part[0])

    def _compare(self, part: Range, data: bytes) -> None:
        back = self.blob.download_blob(part[0], len(data), max_concurrency=1).readall()
        if back != data:
            raise IntegrityError(
                f"bytes {part[0]} to {part[1]} of {self.blob.blob_name} are not what was sent",
                hint="`kubekiln upload` again: it begins anew",
            )


def _begin(blob: BlobClient, image: DiskImage) -> list[Range]:
    if _metadata(blob, image).get(BEGUN) == image.sha256:
        return _ranges(blob)
    blob.create_page_blob(image.size, metadata={BEGUN: image.sha256})
    return []


def _metadata(blob: BlobClient, image: DiskImage) -> dict[str, str]:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        found = blob.get_blob_properties()
    except ResourceNotFoundError:
        return {}
    if found.blob_type != "PageBlob" or found.size != image.size:
        return {}
    return dict(found.metadata or {})


def _ranges(blob: BlobClient) -> list[Range]:
    found = (page for page in blob.list_page_ranges() if not page.cleared)
    return merged((page.start or 0, (page.end or 0) + 1) for page in found)


def _covered(part: Range, there: Sequence[Range]) -> bool:
    return any(start <= part[0] and part[1] <= end for start, end in there)


def _each(act: Callable[[Range], bool], size: int, advance: Advance, streams: int) -> list[Range]:
    """Do something with each range, several at a time; gives those for which it was true."""
    pool, done = ThreadPoolExecutor(streams), []
    try:
        futures = {pool.submit(act, part): part for part in chunks(size)}
        for future in as_completed(futures):
            start, end = futures[future]
            if future.result():
                done.append((start, end))
            advance(end - start)
    finally:
        # What is on its way is waited for, nothing more is begun.
        pool.shutdown(cancel_futures=True)
    return done
