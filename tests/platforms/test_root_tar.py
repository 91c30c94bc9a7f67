# SPDX-License-Identifier: Apache-2.0
"""Has the tar of a root file system every file, with all that it has?"""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.files import sha256_file
from kubekiln.process import Command, run
from pipeline.disk.ext4 import Ext4
from pipeline.disk.formats import as_format
from pipeline.disk.nbd import file_node, open_disk
from pipeline.disk.roottar import check_root_tar
from tests.support.rootdisk import XATTR, publish_root_disk

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(300)]


def facts(archive: tarfile.TarFile) -> dict[str, tuple[Any, ...]]:
    found = {}
    for member in archive:
        file = archive.extractfile(member) if member.isfile() else None
        content = sha256_of(file.read()) if file else member.linkname
        found[member.name] = (member.type, oct(member.mode), member.uid, member.gid, content)
    return found


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_root_as_a_tar_has_every_file_with_all_that_it_has(tmp_path: Path) -> None:
    image = as_format(publish_root_disk(tmp_path, tmp_path), "tar")

    with tarfile.open(image.path) as archive:
        found = facts(archive)
        release = archive.getmember("./etc/os-release")
        devices = {
            name: (m.devmajor, m.devminor)
            for name in ("disk", "whiteout", "far")
            for m in [archive.getmember(f"./etc/{name}")]
        }
    for path in (tmp_path / "tree").rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name not in ("os-release", "again"):
            name = f"./{path.relative_to(tmp_path / 'tree')}"
            assert found[name][0] == tarfile.REGTYPE
            assert found[name][4] == sha256_file(path), name
            assert found[name][1] == oct(path.stat().st_mode & 0o7777)
    assert found["./etc/closed"][:2] == (tarfile.DIRTYPE, "0o700")
    assert found["./etc/short"][4] == "os-release"
    assert found["./etc/long"][4] == "/" + "a-long-way/" * 20
    assert found["./etc/fifo"][0] == tarfile.FIFOTYPE
    assert devices == {"disk": (8, 17), "whiteout": (0, 0), "far": (300, 60000)}
    names = {"./etc/again", "./etc/os-release"}
    assert {found[name][0] for name in names} == {tarfile.REGTYPE, tarfile.LNKTYPE}
    assert found["./etc/again"][2:4] == (1234567, 98765)
    first = min(names)
    with tarfile.open(image.path) as archive:
        headers = archive.getmember(first).pax_headers
    assert headers["SCHILY.xattr.user.note"].encode(errors="surrogateescape") == XATTR
    assert headers["SCHILY.xattr.user.large"] == "x" * 900
    assert release.linkname in ("./etc/again", "")
    assert not any(name.endswith("lost+found") for name in found)
    count = sum(1 for _ in (tmp_path / "tree").rglob("*"))
    assert len(found) == count + 1 + 3, "the root itself, and three devices"


def test_gnu_tar_unpacks_the_root_with_its_attributes(tmp_path: Path) -> None:
    image = as_format(publish_root_disk(tmp_path, tmp_path), "tar")

    out = tmp_path / "out"
    out.mkdir()
    devices = [f"--exclude=./etc/{name}" for name in ("disk", "whiteout", "far")]
    words = ["-xf", image.path, "--xattrs", "--xattrs-include=*", "--no-same-owner", *devices]
    run(Command(["tar", "-C", out, *words]))

    assert os.getxattr(out / "etc/os-release", "user.note") == XATTR
    assert (out / "etc/again").samefile(out / "etc/os-release")
    assert (out / "srv/sparse").read_bytes() == (tmp_path / "tree/srv/sparse").read_bytes()


def test_a_tar_that_differs_from_the_disk_in_one_byte_is_found(tmp_path: Path) -> None:
    manifest = publish_root_disk(tmp_path, tmp_path)
    path = as_format(manifest, "tar").path
    content = bytearray(path.read_bytes())
    at = content.index((tmp_path / "tree/srv/large").read_bytes()[-100:])
    content[at + 99] ^= 1
    path.write_bytes(content)

    with (
        open_disk(file_node(manifest.with_suffix(".qcow2"), "qcow2")) as disk,
        pytest.raises(IntegrityError, match=r"\./srv/large differs"),
    ):
        check_root_tar(disk, path)


def test_a_file_system_that_was_not_unmounted_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "fs.raw"
    run(Command(["mke2fs", "-q", "-F", "-t", "ext4", raw, "16M"]))
    run(Command(["debugfs", "-w", "-R", "feature needs_recovery", raw]))
    content = raw.read_bytes()

    with pytest.raises(KubekilnError, match="features 0x4 isn't understood"):
        Ext4(lambda offset, length: content[offset : offset + length])
