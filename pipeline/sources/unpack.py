# SPDX-License-Identifier: Apache-2.0
"""How are single files taken out of a tar archive or a Debian package?"""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from kubekiln.errors import IntegrityError

WHOLE = "."
"""In place of a path inside: the file itself."""
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60
_CHUNK_BYTES = 1024 * 1024


def unpack(archive: Path, files: Mapping[str, str], directory: Path) -> dict[str, Path]:
    """Take `files` (our name → path inside) out of `archive` into `directory`.

    A path with a `*` stands for several files, which are joined in the order of their names.

    Raises IntegrityError if one is missing or the archive is broken.
    """
    if set(files.values()) == {WHOLE}:
        return {name: _copy(archive, directory / name) for name in files}
    try:
        return _unpack_tar(archive, files, directory)
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise IntegrityError(f"cannot read the archive {archive.name}: {error}") from error


def _copy(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    return target


def _unpack_tar(archive: Path, files: Mapping[str, str], directory: Path) -> dict[str, Path]:
    pieces: dict[str, dict[str, Path]] = {name: {} for name in files}
    with archive.open("rb") as raw, tarfile.open(fileobj=_tar_stream(raw), mode="r|*") as tar:
        for member in tar:
            inside = _plain(member.name)
            names = [n for n, p in files.items() if fnmatchcase(inside, _plain(p))]
            content = tar.extractfile(member) if names and member.isfile() else None
            if content is None:
                continue
            piece = directory / f".{names[0]}.{len(pieces[names[0]])}"
            with piece.open("wb") as out:
                shutil.copyfileobj(content, out, _CHUNK_BYTES)
            for name in names:
                pieces[name][inside] = piece
    missing = [files[name] for name in sorted(files) if not pieces[name]]
    if missing:
        raise IntegrityError(f"{archive.name} has no {', '.join(missing)}")
    return {name: _join(pieces[name], directory / name) for name in files}


def _join(pieces: Mapping[str, Path], target: Path) -> Path:
    with target.open("wb") as out:
        for inside in sorted(pieces):
            with pieces[inside].open("rb") as piece:
                shutil.copyfileobj(piece, out, _CHUNK_BYTES)
    return target


def _plain(path: str) -> str:
    return path.removeprefix("./").rstrip("/")


def _tar_stream(raw: IO[bytes]) -> IO[bytes]:
    if raw.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raw.seek(0)
        return raw
    # A Debian package is an ar archive of debian-binary, control.tar.* and data.tar.*.
    while header := raw.read(_AR_HEADER_BYTES):
        if len(header) < _AR_HEADER_BYTES or not header[48:58].strip().isdigit():
            break
        name, size = header[:16].decode(errors="replace").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            return io.BytesIO(raw.read(size))
        raw.seek(size + size % 2, io.SEEK_CUR)
    raise IntegrityError("the Debian package has no data.tar")
