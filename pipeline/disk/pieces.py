# SPDX-License-Identifier: Apache-2.0
"""What is a disk while it is copied? (A stream of pieces; those of zeros hold no bytes.)"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kubekiln.errors import IntegrityError

CHUNK = 1 << 20
ZEROS = bytes(CHUNK)


@dataclass(frozen=True)
class Piece:
    """Some bytes of a disk, which never go beyond the next whole `CHUNK` of it."""

    length: int
    data: bytes | None
    """None: they are zeros, and weren't read."""

    @property
    def content(self) -> bytes:
        """Give the bytes, also if they are zeros."""
        return ZEROS[: self.length] if self.data is None else self.data


def cut(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a range of a disk at whole chunks; gives offsets and lengths."""
    while start < stop:
        until = min(stop, (start // CHUNK + 1) * CHUNK)
        yield start, until - start
        start = until


def padded(pieces: Iterable[Piece], size: int) -> Iterator[Piece]:
    """Let zeros follow until it is `size` bytes."""
    done = 0
    for piece in pieces:
        done += piece.length
        yield piece
    for _, length in cut(done, size):
        yield Piece(length, None)


def require_same(source: Iterable[Piece], found: Iterable[Piece], *, name: str) -> None:
    """Raise IntegrityError if two disks differ in a byte, or in size.

    Side by side, so that neither must be there raw. Checksums would say less and take longer: most
    of a disk is zeros, of which both streams say so.
    """
    pairs = itertools.zip_longest(whole_chunks(source), whole_chunks(found))
    for number, (mine, yours) in enumerate(pairs):
        if mine is None or yours is None or mine.length != yours.length:
            raise IntegrityError(f"{name} is not as large as the disk that it was made of")
        if mine.data is yours.data is None or mine.content == yours.content:
            continue
        raise IntegrityError(
            f"{name} is not the disk that it was made of: they differ in MiB {number}",
            hint="try again; if it happens again, look at this host's disk and memory",
        )


def whole_chunks(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Join what belongs to one chunk, so that two streams are cut alike."""
    held: list[Piece] = []
    for piece in pieces:
        held.append(piece)
        if sum(one.length for one in held) == CHUNK:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _joined(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    if all(piece.data is None for piece in pieces):
        return Piece(sum(piece.length for piece in pieces), None)
    content = b"".join(piece.content for piece in pieces)
    return Piece(len(content), content)
