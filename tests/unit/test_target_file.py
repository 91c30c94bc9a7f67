# SPDX-License-Identifier: Apache-2.0
"""Is what was half written to a directory found again, and what can't be removed an error?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from pipeline.targets import file
from pipeline.targets.file import FilePlatform, Settings
from pipeline.targets.platform import InstanceSpec, RemoteImage

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

    monkeypatch.setattr(file.shutil, "rmtree", refuse)
    with pytest.raises(KubekilnError, match="Permission denied"):
        to.delete(made)
