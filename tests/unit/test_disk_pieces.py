# SPDX-License-Identifier: Apache-2.0
"""Is a disk the same however it is cut, packed and read back?"""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubekiln.errors import IntegrityError
from pipeline.disk.gce import read_gce, write_gce
from pipeline.disk.gzipped import gzip_stream
from pipeline.disk.pieces import CHUNK, Piece, cut, padded, require_same

NOISE = random.Random(1).randbytes(2000)


def pieces(content: bytes) -> Iterator[Piece]:
    for start, length in cut(0, len(content)):
        data = content[start : start + length]
        yield Piece(length, data if any(data) else None)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (b"a" * CHUNK + b"b" * CHUNK + bytes(100), None),
        (b"a" * CHUNK + b"b" * (CHUNK - 1) + b"c" + bytes(100), "differ in MiB 1"),
        (b"a" * CHUNK + b"b" * CHUNK + bytes(99) + b"c", "differ in MiB 2"),
        (b"a" * CHUNK + b"b" * CHUNK + bytes(99), "not as large"),
        (b"a" * CHUNK + b"b" * CHUNK + bytes(101), "not as large"),
        (b"a" * CHUNK + b"b" * CHUNK, "not as large"),
        (b"", "not as large"),
    ],
    ids=["equal", "last byte", "in the padding", "shorter", "longer", "a chunk less", "nothing"],
)
def test_two_disks_that_differ_in_a_byte_are_not_the_same(
    found: bytes, message: str | None
) -> None:
    source = padded(pieces(b"a" * CHUNK + b"b" * CHUNK), 2 * CHUNK + 100)

    if message is None:
        require_same(source, pieces(found), name="x")
        return
    with pytest.raises(IntegrityError, match=message):
        require_same(source, pieces(found), name="x")


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(1, CHUNK // 2 + 1), st.booleans()), max_size=12))
def test_a_disk_is_the_same_however_it_is_cut(runs: list[tuple[int, bool]]) -> None:
    content = b"".join(bytes([1 - zero]) * length for length, zero in runs)
    small = (
        Piece(n, content[at : at + n])
        for start, length in cut(0, len(content))
        for at, n in ((start, length // 2), (start + length // 2, length - length // 2))
    )

    require_same(pieces(content), small, name="x")


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 3 << 18), st.sampled_from(["zero", "text"])), max_size=9))
def test_gzip_of_many_cpus_is_gzip(runs: list[tuple[int, str]]) -> None:
    parts = [
        bytes(length) if kind == "zero" else (b"%d " % length * length)[:length]
        for length, kind in runs
    ]

    zipped = b"".join(gzip_stream(parts))

    assert gzip.decompress(zipped) == b"".join(parts)
    assert zipped == b"".join(gzip_stream(parts)), "equal each time"


@pytest.mark.parametrize("size", [0, 1, 512, CHUNK, 3 * CHUNK + 77])
def test_a_disk_for_gce_is_read_back(tmp_path: Path, size: int) -> None:
    content = (NOISE * (size // len(NOISE) + 1))[:size]

    write_gce(pieces(content), size, tmp_path / "x.tar.gz")

    assert b"".join(piece.content for piece in read_gce(tmp_path / "x.tar.gz")) == content


@pytest.mark.parametrize("cut_off", [1, 8, 600])
def test_an_archive_for_gce_that_is_cut_off_is_not_whole(tmp_path: Path, cut_off: int) -> None:
    path = tmp_path / "x.tar.gz"
    write_gce(pieces(NOISE), len(NOISE), path)
    os.truncate(path, path.stat().st_size - cut_off)

    with pytest.raises(IntegrityError, match="is not a whole archive"):
        list(read_gce(path))


def test_an_archive_for_gce_with_a_wrong_checksum_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    write_gce(pieces(b"x" * 2000), 2000, path)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)

    with pytest.raises(IntegrityError, match="is not a whole archive"):
        list(read_gce(path))
