# SPDX-License-Identifier: Apache-2.0
"""Small disks for tests of formats and platforms, and what is on one in any format."""

from __future__ import annotations

import random
from pathlib import Path

from kubekiln.files import sha256_bytes, sha256_file
from kubekiln.process import Command, run
from pipeline.targets.platform import DiskImage, FormatName

MIB = 1 << 20
_QEMU_FORMATS: dict[FormatName, str] = {
    "raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc",
}  # fmt: skip

_OPTIONS: dict[FormatName, tuple[str, ...]] = {
    "vmdk": ("-o", "subformat=streamOptimized"),
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
    """Make a small image in a format that QEMU writes; its digest is another for each seed."""
    raw = make_raw(directory / f"disk-{seed}.raw", size_mib=size_mib, seed=seed)
    path = raw if form == "raw" else raw.with_suffix(f".{form}")
    if form != "raw":
        words = ["-O", _QEMU_FORMATS[form], *_OPTIONS.get(form, ())]
        run(Command(["qemu-img", "convert", *words, raw, path]))
    return DiskImage(
        name="test", digest=sha256_bytes(b"%d" % seed), path=path, format=form,
        sha256=sha256_file(path), virtual_size=size_mib * MIB,
    )  # fmt: skip


def raw_sha256(path: Path, form: FormatName, scratch: Path) -> str:
    """Hash the disk that is in a file, whatever its format."""
    raw = scratch / f"{path.name}.as-raw"
    kind = _QEMU_FORMATS[form]
    run(Command(["qemu-img", "convert", "-f", kind, "-O", "raw", path, raw]))
    digest = sha256_file(raw)
    raw.unlink()
    return digest
