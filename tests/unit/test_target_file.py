# SPDX-License-Identifier: Apache-2.0
"""Is what is laid into a directory whole, for those alone who may read it, and gone on with?"""

from __future__ import annotations

import grp
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.files import sha256_file
from pipeline.targets import file
from pipeline.targets.file import FilePlatform, Settings
from pipeline.targets.platform import DiskImage, InstanceSpec, RemoteImage, TransientError

IMAGE = RemoteImage("img", "kubekiln-debian-13-0123456789ab")


@pytest.fixture
def spec(tmp_path: Path) -> InstanceSpec:
    """A node with a seed."""
    seed = tmp_path / "seed"
    seed.mkdir()
    for name in ("user-data", "meta-data", "network-config"):
        (seed / name).write_text(f"{name} of lab-1\n")
    (tmp_path / "seed.iso").write_bytes(b"CD")
    return InstanceSpec(
        cluster="lab", node="lab-1", role="etcd", seed_dir=seed, seed_iso=tmp_path / "seed.iso",
        payload="p1", macs=(), addresses=(), cpus=1, memory_mib=1024, disk_gib=8,
    )  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> DiskImage:
    """Three MiB; a copy takes one at a time."""
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(3 << 15)))
    return DiskImage("debian-13", "ab" * 32, disk, "qcow2", sha256_file(disk), 8 << 30)


@pytest.fixture(params=[0o022, 0o077], ids=["umask 022", "umask 077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever somebody's shell has."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def cut_copy(to: FilePlatform, image: DiskImage) -> Path:
    """Begin an upload that ends in its middle; gives what is there of it."""
    calls = itertools.count()

    def cut(_more: int) -> None:
        if next(calls) == 2:
            raise TransientError("interrupted")

    with pytest.raises(TransientError):
        to.upload(image, cut)
    (part,) = to._images_dir.iterdir()
    return part


def modes(directory: Path) -> dict[str, int]:
    paths = (directory, *directory.rglob("*"))
    return {str(p.relative_to(directory)): p.stat().st_mode & 0o7777 for p in paths}


def platform(tmp_path: Path, **more: str) -> FilePlatform:
    return FilePlatform(Settings(type="file", directory=tmp_path / "out", **more))


def test_a_seed_that_was_half_written_is_found_and_removed(
    tmp_path: Path, spec: InstanceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, real = platform(tmp_path), file.write_atomic

    def full(path: Path, content: bytes, *, mode: int) -> None:
        if path.name == "user-data.gz":
            raise KubekilnError("no space left on device")
        real(path, content, mode=mode)

    monkeypatch.setattr(file, "write_atomic", full)
    with pytest.raises(KubekilnError, match="no space left"):
        to.create(spec, IMAGE)

    (half,) = to.list_instances("lab")
    assert (half.state, half.detail) == ("failed", "half written")
    to.delete(half)
    assert list((tmp_path / "out/nodes").rglob("*")) == []


def test_a_group_that_is_not_there_is_named(tmp_path: Path, spec: InstanceSpec) -> None:
    with pytest.raises(KubekilnError, match="no group no-such-group"):
        platform(tmp_path, group="no-such-group").create(spec, IMAGE)


def test_what_can_not_be_removed_is_an_error(
    tmp_path: Path, spec: InstanceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = platform(tmp_path)
    made = to.create(replace(spec, etcd_disk_gib=8), IMAGE)

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(KubekilnError, match="Permission denied"):
        to.delete(made)


def test_the_clusters_directory_may_go_by_another_thread_that_removed_a_node_too(
    tmp_path: Path, spec: InstanceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = platform(tmp_path)
    instance = to.create(spec, RemoteImage("image", "image"))
    rmdir = Path.rmdir

    def second_rmdir(path: Path) -> None:
        rmdir(path)
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", second_rmdir)
    to.delete(instance)

    assert to.list_instances() == []


def test_a_copy_that_was_cut_is_gone_on_with_where_it_ended(
    tmp_path: Path, image: DiskImage
) -> None:
    to = platform(tmp_path)
    part = cut_copy(to, image)
    there, same = part.stat().st_size, part.stat().st_ino
    assert 0 < there < image.size
    assert to.find_image(image) is None
    done: list[int] = []

    uploaded = Path(to.upload(image, done.append).id)

    assert (done[0], sum(done)) == (there, image.size)
    assert uploaded.stat().st_ino == same
    assert uploaded.read_bytes() == image.path.read_bytes()
    assert to.find_image(image)


def test_a_copy_that_is_read_back_otherwise_is_not_kept(tmp_path: Path, image: DiskImage) -> None:
    to = platform(tmp_path)
    part = cut_copy(to, image)
    part.write_bytes(b"\0" * part.stat().st_size)

    with pytest.raises(IntegrityError, match="is not what was copied there"):
        to.upload(image, lambda _n: None)

    assert list((tmp_path / "out/images").iterdir()) == []
    assert to.find_image(image) is None
    assert Path(to.upload(image, lambda _n: None).id).read_bytes() == image.path.read_bytes()


def test_checksums_name_each_file_of_a_node_and_the_image(
    tmp_path: Path, spec: InstanceSpec, image: DiskImage
) -> None:
    to = platform(tmp_path)

    uploaded = Path(to.upload(image, lambda _n: None).id)
    node = Path(to.create(spec, IMAGE).id)

    listed = [line.split("  ") for line in (node / "SHA256SUMS").read_text().splitlines()]
    files = {p.name: p for p in node.iterdir()}
    assert files.keys() - {name for _, name in listed} == {"SHA256SUMS", ".kubekiln.json"}
    assert listed == [[hashlib.sha256(files[name].read_bytes()).hexdigest(), name]
                      for name in sorted(name for _, name in listed)]  # fmt: skip
    line = f"{hashlib.sha256(image.path.read_bytes()).hexdigest()}  {uploaded.name}\n"
    assert uploaded.with_name(f"{uploaded.name}.sha256").read_text() == line


@pytest.mark.usefixtures("umask")
def test_seeds_are_readable_for_their_owner_alone(tmp_path: Path, spec: InstanceSpec) -> None:
    node = Path(platform(tmp_path).create(spec, IMAGE).id)

    found = modes(tmp_path / "out/nodes")

    assert {found[name] for name in (".", "lab", "lab/lab-1")} == {0o700}
    assert {found[f"lab/lab-1/{path.name}"] for path in node.iterdir()} == {0o600}


@pytest.mark.usefixtures("umask")
def test_a_group_may_read_what_it_serves_and_nobody_else(
    tmp_path: Path, spec: InstanceSpec, image: DiskImage
) -> None:
    mine = set(os.getgroups()) if os.geteuid() else {one.gr_gid for one in grp.getgrall()}
    others = sorted(mine - {os.getgid()})
    if not others:
        pytest.skip("this user is in no second group, and may give files to no other")
    group = grp.getgrgid(others[0])
    to = platform(tmp_path, group=group.gr_name)

    uploaded = Path(to.upload(image, lambda _n: None).id)
    node = Path(to.create(spec, IMAGE).id)

    found = modes(tmp_path / "out/nodes")
    assert {found[name] for name in (".", "lab", "lab/lab-1")} == {0o750}
    assert {found[f"lab/lab-1/{path.name}"] for path in node.iterdir()} == {0o640}
    seeds = (tmp_path / "out/nodes", node.parent, node, *node.iterdir())
    assert {path.stat().st_gid for path in seeds} == {group.gr_gid}
    above = modes(tmp_path / "out")
    assert (above["."], above["images"]) == (0o755, 0o755), "else nobody gets as far as that"
    assert uploaded.stat().st_mode & 0o777 == 0o644, "an image holds no secret"
