# SPDX-License-Identifier: Apache-2.0
"""How do a raw disk's blocks get into an EBS snapshot, in parallel, and each of them only once?

EBS takes a snapshot in blocks of 512 KiB with a SHA-256 each, and at the end the SHA-256 of all of
them in the order of their index ("LINEAR"). Blocks of zeros needn't be sent. A snapshot that isn't
complete can't be read, so what was put is remembered here, in a file beside the image.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kubekiln.errors import IntegrityError
from kubekiln.files import storage_errors
from pipeline.targets.aws_calls import Api
from pipeline.targets.platform import Advance

# The only size that there is: https://docs.aws.amazon.com/ebs/latest/APIReference/API_PutSnapshotBlock.html
BLOCK = 512 << 10
_ZEROS = bytes(BLOCK)
_SAMPLE = 16

T = TypeVar("T")
Sums = Mapping[int, bytes]
"""Index → SHA-256 of each block that isn't all zeros, in the order of the indexes."""


@dataclass
class UploadJournal:
    """What of one image was put into which snapshot; lost lines only cost putting them again."""

    path: Path
    sha256: str
    token: str = ""
    """Of the upload: ClientToken and tag of its snapshot. Not made of the content, for AWS answers
    a token that it knows with its snapshot, also if that was deleted since."""
    snapshot: str = ""
    done: set[int] = field(default_factory=set)

    @classmethod
    def load(cls, image: Path, sha256: str, place: str) -> UploadJournal:
        """Read the journal of an image's upload to a place, empty if there is none."""
        name = f".{image.name}.{hashlib.sha256(place.encode()).hexdigest()[:8]}.aws-upload"
        journal = cls(image.with_name(name), sha256)
        for fields in journal._lines():
            journal.token = fields.get("token", journal.token)
            if fields.get("snapshot", journal.snapshot) != journal.snapshot:
                journal.snapshot, journal.done = fields["snapshot"], set()
            journal.done |= {fields["block"]} if "block" in fields else set()
        return journal

    def begin(self) -> str:
        """Make the token of a new upload, and have it on disk before AWS hears of it."""
        self.forget()
        self.token = str(uuid.uuid4())
        self._add({"token": self.token, "sha256": self.sha256}, sync=True)
        return self.token

    def started(self, snapshot: str) -> None:
        """Note the snapshot; what was put into another one doesn't count."""
        if snapshot != self.snapshot:
            self.snapshot, self.done = snapshot, set()
            self._add({"snapshot": snapshot})

    def put(self, index: int) -> None:
        """Note a block that AWS has."""
        self._add({"block": index})

    def forget(self) -> None:
        """Remove the journal: the upload is over."""
        self.path.unlink(missing_ok=True)
        self.token, self.snapshot, self.done = "", "", set()

    def _add(self, fields: Mapping[str, str | int], *, sync: bool = False) -> None:
        # One write(2) with O_APPEND a line: threads don't mix them. Begun on a line of its own, for
        # the one before may have been cut off.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with storage_errors(self.path):
            handle = os.open(self.path, flags, 0o600)
            try:
                os.write(handle, b"\n" + json.dumps(fields).encode())
                if sync:
                    os.fsync(handle)
            finally:
                os.close(handle)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.is_file():
            return
        first = True
        for line in self.path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # empty, or cut off while it was written
                fields = json.loads(line)
                if first and fields.get("sha256") != self.sha256:
                    return
                first = False
                yield fields


def put_blocks(
    ebs: Api, image: Path, journal: UploadJournal, advance: Advance, *, threads: int
) -> Sums:
    """Put the blocks that the journal doesn't have; raises what one that failed raised."""
    size, lock = image.stat().st_size, threading.Lock()

    def put(index: int) -> bytes | None:
        data = os.pread(disk.fileno(), BLOCK, index * BLOCK)
        digest = None
        padded = data.ljust(BLOCK, b"\0")
        if padded != _ZEROS:
            digest = hashlib.sha256(padded).digest()
            if index not in journal.done:
                _put(ebs, journal, index, padded, digest)
        with lock:
            advance(len(data))
        return digest

    with image.open("rb") as disk:
        digests = side_by_side(put, range(-(-size // BLOCK)), threads)
    return {index: digest for index, digest in enumerate(digests) if digest is not None}


def _put(ebs: Api, journal: UploadJournal, index: int, data: bytes, digest: bytes) -> None:
    ebs(
        "put_snapshot_block",
        SnapshotId=journal.snapshot,
        BlockIndex=index,
        BlockData=data,
        DataLength=BLOCK,
        Checksum=base64.b64encode(digest).decode(),
        ChecksumAlgorithm="SHA256",
    )
    journal.put(index)


def linear_checksum(sums: Sums) -> str:
    """Give the checksum of a whole snapshot as EBS makes it: of its blocks', in their order."""
    joined = b"".join(sums[index] for index in sorted(sums))
    return base64.b64encode(hashlib.sha256(joined).digest()).decode()


def check_snapshot(ebs: Api, snapshot: str, sums: Sums, *, whole: bool, threads: int) -> None:
    """Read a complete snapshot back: which blocks it has, and all of them, or some, themselves.

    EBS has compared the checksum of every block, and that of all of them, when it took them.
    Raises IntegrityError.
    """
    pages = ebs.pages("list_snapshot_blocks", "Blocks", SnapshotId=snapshot, MaxResults=10_000)
    tokens = {block["BlockIndex"]: block["BlockToken"] for block in pages}
    if tokens.keys() != sums.keys():
        odd = min(tokens.keys() ^ sums.keys())
        raise _differs(f"{snapshot} has {len(tokens)} blocks, not {len(sums)}; see block {odd}")
    indexes = sorted(sums)
    chosen = indexes if whole else indexes[:: -(-len(indexes) // _SAMPLE) or 1]

    def read(index: int) -> None:
        token = tokens[index]
        arguments = {"SnapshotId": snapshot, "BlockIndex": index, "BlockToken": token}
        data = ebs.read("get_snapshot_block", "BlockData", **arguments)
        if hashlib.sha256(data).digest() != sums[index]:
            raise _differs(f"block {index} of {snapshot} is not what was put there")

    side_by_side(read, chosen, threads)


def _differs(what: str) -> IntegrityError:
    return IntegrityError(what, hint="the snapshot is removed: try again")


def side_by_side(act: Callable[[int], T], items: Sequence[int], threads: int) -> list[T]:
    """Do something with each item, several at a time; the first failure ends it."""
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(act, items))
    finally:
        pool.shutdown(cancel_futures=True)
