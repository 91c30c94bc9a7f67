# SPDX-License-Identifier: Apache-2.0
"""How does a baked disk become a file in the format that a platform takes?

Each is written from the published qcow2, beside it, and read back before it gets its name:

    debian-13-<digest>.vmdk, debian-13-<digest>.vmdk.json

The second one says what the first must be. It is written last: without it, or with another file,
nothing counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kubekiln.errors import ConfigError, IntegrityError
from kubekiln.files import locked, sha256_file, storage_errors, sync_dir, write_atomic
from kubekiln.progress import step
from pipeline.disk.nbd import file_node
from pipeline.disk.writers import WRITERS, Source, Writer
from pipeline.targets.platform import DiskImage, FormatName

SUFFIXES: Mapping[FormatName, str] = MappingProxyType(
    {"qcow2": "qcow2", **{name: writer.suffix for name, writer in WRITERS.items()}}
)
"""What a file in a format is called."""

# Another number makes all anew, where what is written has changed.
_RECIPE = 1
_LOCK = ".convert.lock"
_PART = ".convert-"


@dataclass(frozen=True)
class _Record:
    """What a file was when it was read back."""

    recipe: int
    source_sha256: str
    sha256: str
    size: int
    virtual_size: int
    mtime_ns: int

    @classmethod
    def read(cls, path: Path) -> _Record | None:
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps(asdict(self), indent=1) + "\n")


def format_named(name: str) -> FormatName:
    """Take a word for a format; raises ConfigError if there is none of that name."""
    found = next((one for one in SUFFIXES if one == name), None)
    if found is None:
        raise ConfigError(f"no format {name!r}", hint=f"there are: {', '.join(sorted(SUFFIXES))}")
    return found


def as_format(manifest: Path, wanted: FormatName, *, reread: bool = False) -> DiskImage:
    """Give a published image in a format; what was written once, and is still whole, is reused.

    Whole is a file that has the size and the time that it had; with `reread`, or with another time,
    the checksum decides. Raises IntegrityError if the qcow2, or what was read back, is not what it
    must be; StorageError if there is no room. Then nothing is left.
    """
    # `debian-13.json` leads to the newest image's, beside which the files are named.
    manifest = manifest.resolve()
    about = json.loads(manifest.read_text())
    if wanted == "qcow2":
        _require_baked(manifest, about, read=reread)
        qcow2 = about["qcow2"]
        return _image(about, manifest.parent / qcow2["path"], wanted, qcow2)
    writer = WRITERS[wanted]
    path = manifest.with_suffix(f".{writer.suffix}")
    record = _find(path, about, reread=reread)
    if record is None:
        with locked(path.with_name(_LOCK)):
            # Somebody else may have made it while we waited.
            record = _find(path, about, reread=reread)
            if record is None:
                with step(f"Writing {path.name}"):
                    record = _make(path, about, writer)
    return _image(about, path, wanted, asdict(record))


def _image(
    about: Mapping[str, Any], path: Path, wanted: FormatName, file: Mapping[str, Any]
) -> DiskImage:
    return DiskImage(
        name=about["name"],
        digest=about["digest"],
        path=path,
        format=wanted,
        sha256=file["sha256"],
        virtual_size=file["virtual_size"],
        architecture=about["architecture"],
    )


def _find(path: Path, about: Mapping[str, Any], *, reread: bool) -> _Record | None:
    """Look for a file that is whole, and was made of this qcow2 in this way."""
    record = _Record.read(_record_path(path))
    if record is None or not path.is_file():
        return None
    there = path.stat()
    if (record.recipe, record.source_sha256) != (_RECIPE, about["qcow2"]["sha256"]):
        return None
    if there.st_size != record.size:
        return None
    if there.st_mtime_ns == record.mtime_ns and not reread:
        return record
    if sha256_file(path) != record.sha256:
        return None
    record = replace(record, mtime_ns=there.st_mtime_ns)
    record.write(_record_path(path))
    return record


def _require_baked(beside: Path, about: Mapping[str, Any], *, read: bool) -> Path:
    """Find the qcow2 beside a file; raises IntegrityError if it is not as it was baked."""
    path, baked = beside.with_name(about["qcow2"]["path"]), about["qcow2"]
    whole = path.is_file() and path.stat().st_size == baked["size"]
    if whole and (not read or sha256_file(path) == baked["sha256"]):
        return path
    what = "is not what was baked" if path.exists() else "is gone"
    raise IntegrityError(f"{path} {what}", hint="remove what is there, then `kubekiln image bake`")


def _make(path: Path, about: Mapping[str, Any], writer: Writer) -> _Record:
    """Write a file anew; it gets its name when it was read back."""
    qcow2 = _require_baked(path, about, read=True)
    size = -(-about["qcow2"]["virtual_size"] // writer.unit) * writer.unit
    name = path.name.removesuffix(f".{writer.suffix}")
    source = Source(file_node(qcow2, "qcow2"), name, size, about["architecture"])
    part = path.with_name(f"{_PART}{path.name}")
    # What is there is of no use, and its room may be needed.
    for old in (_record_path(path), path, *_residue(path.parent)):
        old.unlink(missing_ok=True)
    try:
        with storage_errors(path):
            writer.write(source, part)
            _sync(part)
        sha256 = _checked(part, source, writer)
        there = part.stat()
        part.rename(path)
        sync_dir(path.parent)
    finally:
        part.unlink(missing_ok=True)
    record = _Record(
        recipe=_RECIPE,
        source_sha256=about["qcow2"]["sha256"],
        sha256=sha256,
        size=there.st_size,
        virtual_size=size,
        mtime_ns=there.st_mtime_ns,
    )
    record.write(_record_path(path))
    return record


def _checked(part: Path, source: Source, writer: Writer) -> str:
    """Read a file back, and hash it meanwhile; gives its SHA-256."""
    with ThreadPoolExecutor(1) as pool:
        sha256 = pool.submit(sha256_file, part)
        writer.check(source, part)
        return sha256.result()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _residue(directory: Path) -> Iterator[Path]:
    """List what conversions left that were killed; those that run hold the lock, which is ours."""
    return directory.glob(f"{_PART}*")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
