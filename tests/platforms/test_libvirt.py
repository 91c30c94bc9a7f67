# SPDX-License-Identifier: Apache-2.0
"""What a libvirt daemon does beyond the shared contract, and what happens when it can't."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from cloudinit.seed import build_iso
from kubekiln.channel import KEY_CREDENTIAL
from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.files import sha256_file
from kubekiln.operations.delivery import Delivery
from kubekiln.paths import Project
from kubekiln.process import Command, run
from pipeline.targets import libvirt_connection, libvirt_images
from pipeline.targets.libvirt import LibvirtPlatform
from pipeline.targets.platform import (
    DiskImage,
    Instance,
    InstanceSpec,
    RemoteImage,
    TransientError,
)
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.libvirt import LibvirtRig
from tests.platforms.rigs.libvirt import free_port as any_port
from tests.support.waiting import until

pytestmark = [
    pytest.mark.platforms, pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["libvirt"], indirect=True),
]  # fmt: skip

# 11.3.0 (Debian 13). There the room is looked at before, and a daemon that died is a broken
# connection; when it was started anew, the room is looked at again.
DIES_OF_A_FULL_POOL = (11_003_000,)
Images = tuple[DiskImage, DiskImage]
WORDS = b"KUBEKILN phase=userdata t=1.0 node=lab-1\r\n"
# Writes what follows it to COM1, and stops:
#   cld; xor ax,ax; mov ds,ax; mov si,7C18h; mov dx,3F8h
#   next: lodsb; test al,al; jz stop; out dx,al; jmp next
#   stop: hlt; jmp stop
SPEAKER = bytes.fromhex("fc31c08ed8be187cbaf803ac84c07403eeebf8f4ebfd9090")


@pytest.fixture
def daemon(rig: object) -> LibvirtRig:
    return cast("LibvirtRig", rig)


@pytest.fixture
def image(daemon: LibvirtRig, images: Images) -> RemoteImage:
    return upload(daemon.connect(), images[0])


def upload(platform: LibvirtPlatform, image: DiskImage) -> RemoteImage:
    return platform.upload(image, lambda _n: None)


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


def test_what_a_machine_says_on_its_serial_port_is_its_console(
    daemon: LibvirtRig, spec: InstanceSpec, tmp_path: Path
) -> None:
    platform = daemon.connect()
    uploaded = upload(platform, make_speaker(tmp_path))

    made = platform.create(spec, uploaded)

    until(lambda: WORDS.decode() in (platform.read_console(made) or ""), what="words of the guest",
          timeout_s=60)  # fmt: skip
    platform.delete(made)
    platform.delete_image(uploaded)


def make_speaker(directory: Path) -> DiskImage:
    raw = directory / "speaker.raw"
    sector = (SPEAKER + WORDS + b"\0").ljust(510, b"\0") + b"\x55\xaa"
    raw.write_bytes(sector.ljust(1 << 20, b"\0"))
    path = raw.with_suffix(".qcow2")
    run(Command(["qemu-img", "convert", "-O", "qcow2", raw, path]))
    return DiskImage("speaker", "e" * 64, path, "qcow2", sha256_file(path), 1 << 20)


def test_a_machine_that_was_switched_off_or_paused_is_started_again_not_made_anew(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = daemon.connect()
    made = platform.create(spec, image)
    disk = daemon.pool_dir / "kubekiln_lab_lab-1_disk.qcow2"
    inode = disk.stat().st_ino

    for how in ("destroy", "suspend"):
        with daemon.link.asked(how) as connection:
            getattr(connection.lookupByName(made.id), how)()
        assert [i.state for i in platform.list_instances()] == ["stopped"]
        platform.start(made)
        assert [i.state for i in platform.list_instances()] == ["running"]
    with daemon.link.asked("destroy") as connection:
        connection.lookupByName(made.id).destroy()

    assert platform.create(spec, image) == made
    assert disk.stat().st_ino == inode


def test_a_machine_that_can_not_be_started_is_half_made_and_made_when_it_can(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    port = any_port()
    user = {"user": "10.80.0.0/24", "forwards": [{"node": spec.node, "host_port": port}]}
    platform = LibvirtPlatform(daemon.settings(networks=[user]))
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(KubekilnError) as raised:
            platform.create(spec, image)

        assert f"{spec.name}.log" in str(raised.value), "where QEMU's own words are"
        assert not isinstance(raised.value, TransientError)
        assert [(i.node, i.state) for i in platform.list_instances()] == [("lab-1", "failed")]

    assert platform.create(spec, image).state == "running"
    with socket.create_connection(("127.0.0.1", port)):
        pass


def test_a_bridge_that_is_not_there_is_told_when_a_machine_is_to_be_plugged_in(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = LibvirtPlatform(daemon.settings(networks=[{"bridge": "br-nowhere"}]))

    with pytest.raises(KubekilnError) as raised:
        platform.create(spec, image)

    assert not isinstance(raised.value, TransientError)
    assert [i.state for i in platform.list_instances()] == ["failed"]


@pytest.mark.parametrize("pool", [None, "keys"], ids=["with the seeds", "in a pool of its own"])
def test_the_key_to_user_data_comes_on_a_cd_of_its_own_and_goes_with_the_seed(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec, tmp_path: Path, pool: str | None
) -> None:
    (tmp_path / "key.iso").write_bytes(build_iso({KEY_CREDENTIAL: b"AGE-SECRET-KEY-1QQ\n"}))
    sealed = replace(spec, key_dir=tmp_path)
    platform = LibvirtPlatform(daemon.settings(key_pool=pool))
    before = daemon.leftovers()
    assert platform.problems() == []

    made = platform.create(sealed, image)

    drives = daemon.domain(made.id).findall("devices/disk[@device='cdrom']/source")
    seed, key = (Path(drive.attrib["file"]) for drive in drives)
    assert (seed.parent, key.parent) == (daemon.pool_dir, daemon.directory / (pool or "pool"))
    assert key.read_bytes() == (tmp_path / "key.iso").read_bytes()
    assert key.stat().st_mode & 0o777 == seed.stat().st_mode & 0o777 == 0o600

    # By a target that was changed meanwhile: the machine itself says where its key is.
    (listed,) = daemon.connect().list_instances()
    daemon.connect().forget_user_data(listed)

    assert not key.exists()
    assert not seed.exists()
    drives = daemon.domain(made.id).findall("devices/disk[@device='cdrom']/source")
    assert [drive.attrib for drive in drives if "file" in drive.attrib] == []
    platform.delete(listed)
    again = platform.create(sealed, image)
    with daemon.link.asked("start it without its key") as connection:
        connection.lookupByName(again.id).destroy()
        key.unlink()
    platform.start(again)
    daemon.connect().delete(*daemon.connect().list_instances())
    assert again.id == made.id
    assert daemon.leftovers() == before


def test_a_pool_of_keys_that_is_not_there_is_said_before_anything(daemon: LibvirtRig) -> None:
    platform = LibvirtPlatform(daemon.settings(key_pool="nowhere"))

    assert [problem.what for problem in platform.problems()] == ["no storage pool nowhere"]


def test_volumes_without_their_domain_are_a_half_made_machine(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = daemon.connect()
    made = platform.create(spec, image)
    with daemon.link.asked("take the domain away") as connection:
        domain = connection.lookupByName(made.id)
        domain.destroy()
        domain.undefine()

    (half,) = platform.list_instances("lab")

    assert (half.cluster, half.node, half.state) == ("lab", "lab-1", "failed")
    platform.delete(half)
    assert platform.list_instances() == []


def test_the_databases_disk_stays_until_destroy_if_it_was_written_to(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec, tmp_path: Path
) -> None:
    to = Delivery("here", daemon.connect(), Project(tmp_path), 1)
    wanted = replace(spec, etcd_disk_gib=2)
    of_etcd = daemon.pool_dir / "kubekiln_lab_lab-1_etcd.qcow2"

    def without_its_domain() -> None:
        to.boot([wanted], image)
        with daemon.link.asked("take the domain away") as connection:
            domain = connection.lookupByName("lab-lab-1")
            domain.destroy()
            domain.undefine()

    without_its_domain()
    without_its_domain()  # the machine wrote nothing: it is made anew
    run(Command(["qemu-io", "-c", "write 0 4k", of_etcd]))

    with pytest.raises(KubekilnError, match=f"of lab-1 only a disk is left.*: {of_etcd.name}"):
        to.boot([wanted], image)

    assert of_etcd.is_file()
    assert to.destroy("lab") == ["lab-1"]
    assert not of_etcd.exists()


def test_a_domain_that_is_not_ours_is_neither_listed_nor_touched(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = daemon.connect()
    foreign = "<domain type='qemu'><name>lab-lab-1</name><memory>65536</memory><os><type>hvm</type>"
    with daemon.link.asked("define a domain") as connection:
        domain = connection.defineXML(f"{foreign}</os></domain>")

    with pytest.raises(KubekilnError, match="isn't this node's"):
        platform.create(spec, image)

    assert platform.list_instances() == []
    with daemon.link.asked("remove the domain") as connection:
        connection.lookupByName("lab-lab-1").undefine()
    del domain


def test_machines_are_made_listed_and_removed_side_by_side(
    daemon: LibvirtRig, image: RemoteImage, tmp_path: Path
) -> None:
    platform = daemon.connect()
    names = [f"lab-{number}" for number in range(4)]
    specs = [make_spec(tmp_path, name) for name in names]
    before = daemon.leftovers()

    def make(of: InstanceSpec) -> Instance:
        made = platform.create(of, image)
        assert made in platform.list_instances("lab")
        return made

    with ThreadPoolExecutor(len(specs)) as pool:
        made = list(pool.map(make, specs))
        assert [i.node for i in platform.list_instances("lab")] == names
        list(pool.map(platform.delete, made))

    assert daemon.leftovers() == before


def test_a_machine_of_another_payload_is_not_taken_for_this_one(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = daemon.connect()
    platform.create(spec, image)

    with pytest.raises(KubekilnError, match="made of another image or user-data"):
        platform.create(replace(spec, payload="fedcba9876543210"), image)


def test_a_machine_with_efi_goes_with_its_firmwares_variables(
    daemon: LibvirtRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = LibvirtPlatform(daemon.settings(firmware="efi"))
    before = daemon.leftovers()

    made = platform.create(spec, image)

    assert any(name.endswith("_VARS.fd") for name in daemon.leftovers())
    platform.delete(made)
    assert daemon.leftovers() == before


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
