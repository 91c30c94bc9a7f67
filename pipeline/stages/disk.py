# SPDX-License-Identifier: Apache-2.0
"""How does a root tar become a bootable disk without a loop device or a mount?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from kubekiln.errors import ConfigError
from kubekiln.files import make_dir
from kubekiln.process import RealRunner, run
from pipeline.cache import Stage
from pipeline.disk.bios import install_bios_loader
from pipeline.disk.esp import write_esp
from pipeline.disk.layout import MIB, ROOT_LABEL, Layout, make_layout, write_table
from pipeline.disk.qcow2 import write_qcow2
from pipeline.model import Image
from pipeline.plan import SOURCE_DATE_EPOCH
from pipeline.sandbox import Sandbox, gib_for

_POPULATE = Path(__file__).parent.parent / "disk" / "populate-root.sh"
# Measured: 1.7 GB for a whole node.
_LEAST_MEMORY_GIB = 3


def make_disk(image: Image, stage: Stage, root_tar: Path, scratch: Path, *, log: Path) -> None:
    """Make `disk.qcow2`, `disk.json` with its layout, and dpkg's `status`."""
    runner = RealRunner()
    layout = make_layout(
        size_mib=image.disk.size_mib, architecture=image.architecture, seed=stage.digest
    )
    _check_size(image, layout, root_tar)
    raw = scratch / "disk.raw"
    write_table(raw, layout, runner=runner)
    esp_dir, boot_dir = make_dir(scratch / "esp"), make_dir(scratch / "boot")
    _populate(raw, layout, stage, root_tar, (scratch, esp_dir, boot_dir), log=log)
    write_esp(raw, layout, tree=esp_dir, scratch=scratch, runner=runner)
    if (boot_dir / "core.img").is_file():
        install_bios_loader(
            raw,
            layout,
            boot=(boot_dir / "boot.img").read_bytes(),
            core=(boot_dir / "core.img").read_bytes(),
        )
    write_qcow2(raw, scratch / "disk.qcow2", runner=runner)
    (boot_dir / "dpkg-status").rename(scratch / "dpkg-status")
    (scratch / "disk.json").write_text(json.dumps(asdict(layout), indent=1) + "\n")


def _populate(
    raw: Path,
    layout: Layout,
    stage: Stage,
    root_tar: Path,
    places: tuple[Path, Path, Path],
    *,
    log: Path,
) -> None:
    scratch, esp_dir, boot_dir = places
    memory_dir = make_dir(scratch / "memory")
    options = f"offset={layout.root.start},hash_seed={layout.hash_seed},lazy_itable_init=1"
    argv: list[str | Path] = [
        _POPULATE, root_tar, memory_dir, esp_dir, boot_dir,
        "-q", "-F", "-t", "ext4", "-L", ROOT_LABEL, "-U", layout.filesystem_uuid, "-m", "1",
        "-J", "size=32", "-E", options, raw, f"{layout.root.size // 1024}k",
    ]  # fmt: skip
    env = {
        "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH),
        "E2FSPROGS_FAKE_TIME": str(SOURCE_DATE_EPOCH),
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    memory = gib_for(root_tar.stat().st_size, least=_LEAST_MEMORY_GIB)
    sandbox = Sandbox(stage.lock, memory_dir, memory)
    run(sandbox.command(argv, env=env, log=log, what_for="to make the root file system"))


def _check_size(image: Image, layout: Layout, root_tar: Path) -> None:
    """Refuse what wouldn't fit as soon as it is known: the tar is nearly as large as its files.

    It isn't before: elements remove files of the base, and components are unpacked by them.
    """
    need = root_tar.stat().st_size // MIB + image.disk.free_mib
    there = layout.root.size_mib
    if need > there:
        raise ConfigError(
            f"a root of {there} MiB is too small for {image.name}: it needs {need} MiB",
            where=image.where("disk", "size_mib"),
            hint=f"set disk.size_mib to {need + image.disk.size_mib - there} or more",
        )
