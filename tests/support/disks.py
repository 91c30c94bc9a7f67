# SPDX-License-Identifier: Apache-2.0
"""Small disks for tests of formats and platforms, and what is on one in any format."""

from __future__ import annotations

import json
import random
from pathlib import Path

from kubekiln.files import sha256_bytes, sha256_file
from kubekiln.process import Command, run
from pipeline.disk.ova import read_ova, write_ova
from pipeline.disk.ovf import Appliance
from pipeline.targets.platform import DiskImage, FormatName

MIB = 1 << 20
_QEMU_FORMATS: dict[FormatName, str] = {
    "raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "ova": "vmdk", "vhd": "vpc",
}  # fmt: skip

_VMDK = ("-o", "subformat=streamOptimized,adapter_type=lsilogic")
_OPTIONS: dict[FormatName, tuple[str, ...]] = {
    "vmdk": _VMDK,
    "ova": _VMDK,
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
    """Make a small image in a format that QEMU writes (or an OVA); one digest for each seed."""
    raw = make_raw(directory / f"disk-{seed}.raw", size_mib=size_mib, seed=seed)
    path = raw if form == "raw" else raw.with_suffix(f".{form}")
    if form != "raw":
        words = ["-O", _QEMU_FORMATS[form], *_OPTIONS.get(form, ())]
        run(Command(["qemu-img", "convert", *words, raw, path]))
    if form == "ova":
        write_ova(path.rename(raw.with_suffix(".vmdk")), path, Appliance("test", size_mib * MIB))
    return DiskImage(
        name="test", digest=sha256_bytes(b"%d" % seed), path=path, format=form,
        sha256=sha256_file(path), virtual_size=size_mib * MIB,
    )  # fmt: skip


def raw_sha256(path: Path, form: FormatName, scratch: Path) -> str:
    """Hash the disk that is in a file, whatever its format."""
    raw = scratch / f"{path.name}.as-raw"
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
    raw.unlink()
    return digest
