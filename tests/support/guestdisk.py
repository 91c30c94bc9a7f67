# SPDX-License-Identifier: Apache-2.0
"""What is on the disk of a machine that lost power?"""

from __future__ import annotations

from pathlib import Path

from kubekiln.files import make_dir
from kubekiln.process import Command, run
from pipeline.disk.layout import make_layout

# The same on disks of every size, and whatever they are for.
ROOT_AT = make_layout(size_mib=4096, architecture="amd64", seed="").root.start


def copy_out(disk: Path, *directories: str, scratch: Path, at: int = 0) -> list[Path]:
    """Copy directories out of an ext4 file system of a qcow2 disk, the journal played back.

    The file system begins `at` that byte. Gives where the copies are; a directory that isn't there
    has none. While the machine runs, part of what it wrote is in its memory alone.
    """
    raw, copies = scratch / "file-system.raw", make_dir(scratch / "copies")
    parts = f"driver=raw,offset={at},file.driver=qcow2,file.file.driver=file"
    source = f"{parts},file.file.filename={disk}"
    run(Command(["qemu-img", "convert", "--image-opts", "-O", "raw", source, raw]))
    # debugfs reads no journal; e2fsck plays it back, and ends with 1 when it changed something.
    assert run(Command(["e2fsck", "-fy", raw]), check=False).returncode in {0, 1}
    for directory in directories:
        run(Command(["debugfs", "-R", f"rdump {directory} {copies}", raw]))
    raw.unlink()
    return [copies / Path(directory).name for directory in directories]
