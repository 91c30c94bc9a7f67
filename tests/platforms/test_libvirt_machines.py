# SPDX-License-Identifier: Apache-2.0
"""What does `libvirt` promise of machines, beyond the contract? (On a real daemon.)"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cloudinit.seed import build_iso
from kubekiln.channel import KEY_CREDENTIAL
from kubekiln.errors import KubekilnError
from kubekiln.files import sha256_file
from kubekiln.operations.delivery import Delivery
from kubekiln.paths import Project
from kubekiln.process import Command, run
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
from tests.platforms.rigs.rig import upload
from tests.support.waiting import until

pytestmark = [
    pytest.mark.platforms, pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["libvirt"], indirect=True),
]  # fmt: skip
WORDS = b"KUBEKILN phase=userdata t=1.0 node=lab-1\r\n"
# Writes what follows it to COM1, and stops:
#   cld; xor ax,ax; mov ds,ax; mov si,7C18h; mov dx,3F8h
#   next: lodsb; test al,al; jz stop; out dx,al; jmp next
#   stop: hlt; jmp stop
SPEAKER = bytes.fromhex("fc31c08ed8be187cbaf803ac84c07403eeebf8f4ebfd9090")


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
