# SPDX-License-Identifier: Apache-2.0
"""How is the EFI system partition made without mounting it? (mkfs.vfat and mtools.)"""

from __future__ import annotations

import shutil
from pathlib import Path

from kubekiln.process import Command, Runner
from pipeline.disk.layout import ESP_LABEL, Layout


def write_esp(raw: Path, layout: Layout, *, tree: Path, scratch: Path, runner: Runner) -> None:
    """Write a FAT32 file system with everything of `tree` into its partition."""
    image = scratch / "esp.img"
    with image.open("wb") as file:
        file.truncate(layout.esp.size)
    runner.run(
        Command(["mkfs.vfat", "--invariant", "-F", "32", "-s", "1", "-n", ESP_LABEL,
                 "-i", layout.esp_serial, image])
    )  # fmt: skip
    # mtools would ask, on a terminal, before it overwrites; sorted, so that places are the same.
    for entry in sorted(tree.iterdir()):
        runner.run(Command(["mcopy", "-i", image, "-s", "-m", "-Q", entry, "::/"]))
    with image.open("rb") as source, raw.open("r+b") as disk:
        disk.seek(layout.esp.start)
        shutil.copyfileobj(source, disk, 1 << 20)
    image.unlink()
