# SPDX-License-Identifier: Apache-2.0
"""Small disks for tests of formats and platforms, and what is on one in any format."""

from __future__ import annotations

import json
import random
from pathlib import Path

from kubekiln.files import sha256_bytes, sha256_file
from kubekiln.process import Command, RealRunner, run
from pipeline.disk.formats import SUFFIXES
from pipeline.disk.nbd import file_node
from pipeline.disk.ova import read_ova
from pipeline.disk.qcow2 import write_qcow2
from pipeline.disk.writers import WRITERS, Source
from pipeline.targets.platform import DiskImage, FormatName

MIB = 1 << 20
DISKS: tuple[FormatName, ...] = ("raw", "vmdk", "ova", "vhd")
"""Formats of a disk alone, of which none wants it in whole GiB."""
_QEMU_FORMATS: dict[FormatName, str] = {
    "raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "ova": "vmdk", "vhd": "vpc",
}  # fmt: skip

_QEMU_WRITES = ("qcow2", "vhd")
_OPTIONS: dict[FormatName, tuple[str, ...]] = {
    "vhd": ("-o", "subformat=fixed,force_size=on"),
}


def make_raw(path: Path, *, size_mib: int = 64, seed: int = 1) -> Path:
    """Write a sparse disk: noise at the beginning, in the middle and at the very end."""
    noise = random.Random(seed)
    with path.open("wb") as out:
        out.truncate(size_mib * MIB)
        for at_mib in (0, size_mib // 2, size_mib - 1):
            out.seek(at_mib * MIB)
            out.write(noise.randbytes(MIB))
    return path


def make_image(
    directory: Path, form: FormatName, *, size_mib: int = 64, seed: int = 1
) -> DiskImage:
    """Make a small image in any format but `tar`; its digest is another for each seed."""
    raw = make_raw(directory / f"disk-{seed}.raw", size_mib=size_mib, seed=seed)
    path = raw if form == "raw" else raw.with_suffix(f".{SUFFIXES[form]}")
    if form in _QEMU_WRITES:
        words = ["-O", _QEMU_FORMATS[form], *_OPTIONS.get(form, ())]
        run(Command(["qemu-img", "convert", *words, raw, path]))
    elif form != "raw":
        source = Source(file_node(raw, "raw"), "test", size_mib * MIB, "amd64")
        WRITERS[form].write(source, path)
    return DiskImage(
        name="test", digest=sha256_bytes(b"%d" % seed), path=path, format=form,
        sha256=sha256_file(path), virtual_size=size_mib * MIB,
    )  # fmt: skip


def as_image(path: Path, form: FormatName = "raw", content: bytes = b"a disk") -> DiskImage:
    """Write a file and take it for an image; it is the disk of nothing."""
    path.write_bytes(content)
    return DiskImage("debian-13", "ab" * 32, path, form, sha256_file(path), 1 << 30)


def publish(raw: Path, directory: Path, *, name: str = "test") -> Path:
    """Lay a disk out as a bake publishes it; gives the manifest, as far as conversions read it."""
    digest = sha256_file(raw)
    qcow2 = directory / f"{name}-{digest[:12]}.qcow2"
    write_qcow2(raw, qcow2, runner=RealRunner())
    size = raw.stat().st_size
    about = {
        "format": 1, "name": name, "digest": digest, "architecture": "amd64",
        "qcow2": {"path": qcow2.name, "size": qcow2.stat().st_size, "sha256": sha256_file(qcow2),
                  "virtual_size": size},
    }  # fmt: skip
    manifest = qcow2.with_suffix(".json")
    manifest.write_text(json.dumps(about))
    return manifest


def raw_sha256(path: Path, form: FormatName, scratch: Path, *, keep: Path | None = None) -> str:
    """Hash the disk that is in a file, whatever its format; the raw disk may be kept."""
    raw = keep or scratch / f"{path.name}.as-raw"
    source: dict[str, object] = {
        "driver": _QEMU_FORMATS[form],
        "file": {"driver": "file", "filename": str(path)},
    }
    if form == "ova":
        ova = read_ova(path)
        place = {"offset": ova.disk_offset, "size": ova.disk_size}
        source["file"] = {"driver": "raw", **place, "file": source["file"]}
    run(Command(["qemu-img", "convert", "-O", "raw", f"json:{json.dumps(source)}", raw]))
    digest = sha256_file(raw)
    if keep is None:
        raw.unlink()
    return digest
