# SPDX-License-Identifier: Apache-2.0
"""Is a disk image of another format than it's said to be noticed?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import IntegrityError
from kubekiln.files import sha256_file
from pipeline.targets.magic import check_format
from pipeline.targets.platform import DiskImage, FormatName

MIB = 1 << 20


def make_image(
    path: Path, content: bytes, *, form: FormatName = "raw", virtual_size: int = 0
) -> DiskImage:
    path.write_bytes(content)
    return DiskImage(
        name="debian-13", digest="ab" * 32, path=path, format=form, sha256=sha256_file(path),
        virtual_size=virtual_size or len(content),
    )  # fmt: skip


def qcow2_head(size: int, *, backing: int = 0) -> bytes:
    head = b"QFI\xfb" + (3).to_bytes(4, "big") + backing.to_bytes(8, "big") + bytes(8)
    return head + size.to_bytes(8, "big") + bytes(64)


@pytest.mark.parametrize(
    ("content", "given", "says"),
    [
        (qcow2_head(MIB), {"virtual_size": MIB}, "is qcow2, not raw"),
        (bytes(1024), {"form": "qcow2", "virtual_size": MIB}, "is raw, not qcow2"),
        (bytes(1024), {"virtual_size": MIB}, "is a disk of 1024 B instead of 1048576 B"),
        (qcow2_head(MIB), {"form": "qcow2", "virtual_size": 9}, "is a disk of 1048576 B"),
        (qcow2_head(MIB, backing=104), {"form": "qcow2", "virtual_size": MIB}, "is a layer"),
        (b"QFI\xfb", {"form": "qcow2", "virtual_size": MIB}, "ends within its header"),
        (b"KDMV" + bytes(60), {"virtual_size": 64}, "is vmdk, not raw"),
    ],
)  # fmt: skip
def test_a_file_of_another_format_than_it_is_said_to_be_is_refused(
    tmp_path: Path, content: bytes, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(IntegrityError, match=says):
        check_format(make_image(tmp_path / "disk", content, **given))


def test_files_of_their_format_are_fine(tmp_path: Path) -> None:
    check_format(make_image(tmp_path / "raw", bytes(1024)))
    check_format(make_image(tmp_path / "qcow2", qcow2_head(MIB), form="qcow2", virtual_size=MIB))
