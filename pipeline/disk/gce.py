# SPDX-License-Identifier: Apache-2.0
"""How does a disk become what Google's Compute Engine imports, and what is in such a file?

`disk.raw` in a tar in GNU's old format, gzipped; the disk is a whole number of GiB:
https://cloud.google.com/compute/docs/import/import-existing-image#requirements_for_the_image_file
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from kubekiln.errors import IntegrityError
from pipeline.disk.gzipped import gzip_stream
from pipeline.disk.pieces import CHUNK, Piece, whole_chunks

_MEMBER = "disk.raw"


def write_gce(pieces: Iterable[Piece], size: int, out: Path) -> None:
    """Write a disk of `size` bytes, piece by piece."""
    with out.open("wb") as file:
        for part in gzip_stream(_archive(pieces, size)):
            file.write(part)


def read_gce(path: Path) -> Iterator[Piece]:
    """Give the disk back; raises IntegrityError if there is anything else, or it is cut off."""
    try:
        with gzip.open(path) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if member.name != _MEMBER or file is None:
                    raise IntegrityError(f"{path} has {member.name} instead of {_MEMBER}")
                while data := file.read(CHUNK):
                    yield Piece(len(data), data)
            # gzip's checksum comes at its very end.
            while unzipped.read(CHUNK):
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise IntegrityError(f"{path} is not a whole archive: {error}") from error


def _archive(pieces: Iterable[Piece], size: int) -> Iterator[bytes]:
    about = tarfile.TarInfo(_MEMBER)
    about.size = size
    header = about.tobuf(tarfile.GNU_FORMAT)
    yield header
    for piece in whole_chunks(pieces):
        yield piece.content
    # Two empty blocks end an archive, which is a whole number of records.
    end = len(header) + size + 2 * tarfile.BLOCKSIZE
    yield bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE)
