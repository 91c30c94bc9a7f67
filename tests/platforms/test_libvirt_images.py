# SPDX-License-Identifier: Apache-2.0
"""What does `libvirt` promise of images and settings, beyond the contract? (On a real daemon.)"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.files import sha256_file
from pipeline.targets import libvirt_connection, libvirt_images
from pipeline.targets.libvirt import LibvirtPlatform
from pipeline.targets.platform import DiskImage, InstanceSpec, RemoteImage, TransientError
from tests.platforms.rigs.libvirt import LibvirtRig
from tests.platforms.rigs.rig import Images, upload

pytestmark = [
    pytest.mark.platforms, pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["libvirt"], indirect=True),
]  # fmt: skip
# 11.3.0 (Debian 13). There the room is looked at before, and a daemon that died is a broken
# connection; when it was started anew, the room is looked at again.
DIES_OF_A_FULL_POOL = (11_003_000,)


def test_an_upload_that_was_cut_goes_on_where_it_was(daemon: LibvirtRig, images: Images) -> None:
    door = daemon.door("cut")
    door.cut_after = images[0].size // 2
    platform = LibvirtPlatform(daemon.settings(uri=daemon.uri(door.path)))
    with pytest.raises(TransientError):
        upload(platform, images[0])
    door.mode = "open"
    steps: list[int] = []

    platform.upload(images[0], steps.append)

    # Not all that was sent: the daemon drops what it hasn't written when a connection breaks.
    assert 0 < steps[0] < images[0].size // 2
    assert sum(steps) == images[0].size
    assert daemon.connect().find_image(images[0])


def test_what_is_not_read_back_as_it_was_sent_does_not_count(
    daemon: LibvirtRig, images: Images, tmp_path: Path
) -> None:
    platform, name = daemon.connect(), libvirt_images.image_volume(images[0])
    upload(platform, images[0])
    (daemon.pool_dir / f"{name}.whole").unlink()
    with (daemon.pool_dir / name).open("r+b") as disk:
        disk.seek(images[0].size // 2)
        disk.write(b"not what was sent")

    with pytest.raises(IntegrityError) as raised:
        upload(platform, images[0])

    assert name in str(raised.value)
    assert platform.find_image(images[0]) is None
    assert daemon.leftovers() == []
    upload(platform, images[0])
    assert daemon.disk_sha256(RemoteImage(name, ""), tmp_path)


def test_an_image_whose_checksum_was_written_half_is_not_whole(
    daemon: LibvirtRig, images: Images, image: RemoteImage
) -> None:
    (daemon.pool_dir / f"{image.id}.whole").write_bytes(b"0123")

    assert daemon.connect().find_image(images[0]) is None
    assert upload(daemon.connect(), images[0]) == image


def test_holes_are_not_sent_and_arrive_as_zeros(daemon: LibvirtRig, tmp_path: Path) -> None:
    path = tmp_path / "holes.qcow2"
    with path.open("wb") as file:
        file.truncate(96 << 20)
        for at in (0, 50 << 20):
            file.seek(at)
            file.write(b"data" * 1000)
    image = DiskImage("test", "f" * 64, path, "qcow2", sha256_file(path), 96 << 20)
    platform = daemon.connect()
    done: list[int] = []

    uploaded = platform.upload(image, done.append)

    there = daemon.pool_dir / uploaded.id
    assert sha256_file(there) == image.sha256
    assert there.stat().st_blocks * 512 < 1 << 20
    assert sum(done) == image.size
    platform.delete_image(uploaded)


def test_a_pool_that_fills_up_in_the_middle_is_told_and_cleared(
    daemon: LibvirtRig, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    if daemon.version in DIES_OF_A_FULL_POOL:
        pytest.skip("this libvirt's daemon dies there (double free), of `virsh vol-upload` as well")
    monkeypatch.setattr(libvirt_images, "_check_room", lambda *_: None)
    platform = daemon.connect("full-storage")

    with pytest.raises(KubekilnError) as raised:
        upload(platform, images[0])

    assert "No space left on device" in str(raised.value)
    assert "hint: free some room in the storage pool" in str(raised.value)
    assert not isinstance(raised.value, TransientError)
    with daemon.link.asked("look") as connection:
        assert connection.storagePoolLookupByName("small").listVolumes() == []


def test_an_image_on_which_a_machine_stands_is_not_removed(
    daemon: LibvirtRig, images: Images, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = daemon.connect()
    made = platform.create(spec, image)

    with pytest.raises(KubekilnError, match="is in use"):
        platform.delete_image(image)

    assert platform.find_image(images[0]) == image
    platform.delete(made)
    platform.delete_image(image)


def test_a_pool_of_keys_that_is_not_there_is_said_before_anything(daemon: LibvirtRig) -> None:
    platform = LibvirtPlatform(daemon.settings(key_pool="nowhere"))

    assert [problem.what for problem in platform.problems()] == ["no storage pool nowhere"]


def test_a_daemon_that_falls_silent_is_not_waited_for_for_ever(
    daemon: LibvirtRig, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_connection, "_ALIVE_INTERVAL_S", 1)
    monkeypatch.setattr(libvirt_connection, "_ALIVE_MISSES", 2)
    platform = LibvirtPlatform(daemon.settings(uri=daemon.uri(daemon.door("stall").path)))
    began = time.monotonic()

    with pytest.raises(TransientError):
        upload(platform, images[0])

    assert time.monotonic() - began < 30
    daemon.connect().upload(images[0], lambda _n: None)


def test_what_the_daemon_lacks_is_said_with_what_to_do(daemon: LibvirtRig, tmp_path: Path) -> None:
    with daemon.link.asked("make a pool that isn't active") as connection:
        pool = connection.storagePoolDefineXML(
            f"<pool type='dir'><name>idle</name><target><path>{tmp_path}</path></target></pool>"
        )
    cases = {
        "no storage pool none": {"pool": "none"},
        "storage pool idle is not active": {"pool": "idle"},
        "TEST is not QEMU": {"uri": "test:///default"},
    }

    for what, changed in cases.items():
        refused(daemon, what, **changed)
    away = daemon.settings(uri=daemon.uri(tmp_path / "nobody-listens"))
    with pytest.raises(TransientError, match="cannot connect to") as raised:
        LibvirtPlatform(away).problems()
    assert "virsh" in str(raised.value.problems[0].hint)

    with daemon.link.asked("clear up"):
        pool.undefine()


def test_a_network_that_is_not_there_or_not_active_is_said(daemon: LibvirtRig) -> None:
    if not next(daemon.directory.glob("run/libvirt/network"), None):
        pytest.skip("this daemon has no network driver (libvirt-daemon-driver-network)")
    with daemon.link.asked("make a network that isn't active") as connection:
        network = connection.networkDefineXML("<network><name>idle</name></network>")

    refused(daemon, "no network none", networks=[{"network": "none"}])
    refused(daemon, "network idle is not active", networks=[{"bridge": "b"}, {"network": "idle"}])

    with daemon.link.asked("clear up"):
        network.undefine()


def refused(daemon: LibvirtRig, what: str, **changed: Any) -> None:
    (problem,) = LibvirtPlatform(daemon.settings(**changed)).problems()
    assert what in problem.what
    assert problem.hint


def test_without_a_uri_it_is_where_libvirts_own_tools_look(
    daemon: LibvirtRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", daemon.uri())

    assert LibvirtPlatform(daemon.settings(uri=None)).problems() == []
