# SPDX-License-Identifier: Apache-2.0
"""Is QEMU started so that the guest works there, and only as this host can?"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.process import Command, Result, run
from pipeline.targets import qemu, qmp
from pipeline.targets.qmp import socket_path
from pipeline.targets.record import list_records, record_of, write_record
from tests.support.machines import make_machine
from tests.support.qemu import KVM, option


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, kvm: bool, version: str = "10.0.2 (Debian)"
) -> None:
    monkeypatch.setattr(qemu, "kvm_works", lambda: (kvm, "there is no /dev/kvm"))
    text = f"QEMU emulator version {version}\n".encode()
    monkeypatch.setattr(qemu, "run", lambda _command: Result(0, text))


@pytest.mark.parametrize(
    ("kvm", "version", "machines", "seconds"),
    [
        (True, "7.2.22", 5, 900), (False, "10.0.2", 1, 1800), (False, "10.0.2", 2, 2700),
        (False, "7.2.22 (Debian)", 1, 2700),
    ],
)  # fmt: skip
def test_emulated_machines_are_waited_for_as_long_as_they_take(
    monkeypatch: pytest.MonkeyPatch, kvm: bool, version: str, machines: int, seconds: float
) -> None:
    pretend(monkeypatch, kvm=kvm, version=version)

    assert qemu.QemuTarget().patience_s(machines) == seconds


def test_the_machine_is_plugged_into_its_clusters_switch(tmp_path: Path) -> None:
    one, other = make_machine(tmp_path), make_machine(tmp_path, name="lab-2")
    elsewhere = make_machine(tmp_path, run_dir=tmp_path / "machines" / "other" / "lab-1")

    cables = [option(qemu.qemu_command(m, KVM), "-netdev") for m in (one, other, elsewhere)]

    assert cables[0] == cables[1] != cables[2]
    assert cables[0][0].startswith("stream,id=net0,server=off,addr.type=unix,addr.path=/")


def test_the_seed_is_a_cd_that_debians_cloud_kernel_can_see(tmp_path: Path) -> None:
    command = qemu.qemu_command(make_machine(tmp_path), KVM)

    devices = option(command, "-device")
    assert "virtio-scsi-pci,id=scsi" in devices
    assert "scsi-cd,bus=scsi.0,drive=seed" in devices
    assert any("id=seed" in drive and "readonly=on" in drive for drive in option(command, "-drive"))


def test_the_database_has_a_second_disk_if_it_is_to_have_one(tmp_path: Path) -> None:
    machine = make_machine(tmp_path)
    assert "virtio-blk-pci,drive=etcd" not in option(qemu.qemu_command(machine, KVM), "-device")

    command = qemu.qemu_command(replace(machine, etcd_disk_gib=8), KVM)

    assert "virtio-blk-pci,drive=etcd" in option(command, "-device")
    (drive,) = [word for word in option(command, "-drive") if "id=etcd" in word]
    assert drive.startswith(f"file={machine.run_dir}/etcd.qcow2,")


def test_the_mac_is_the_one_that_the_network_config_matches(tmp_path: Path) -> None:
    command = qemu.qemu_command(make_machine(tmp_path), KVM)

    assert "virtio-net-pci,netdev=net0,mac=52:54:00:aa:bb:cc,romfile=" in option(command, "-device")


def test_a_comma_in_a_path_does_not_end_the_option(tmp_path: Path) -> None:
    machine = make_machine(tmp_path / "a,b")

    drives = option(qemu.qemu_command(machine, KVM), "-drive")

    assert all("a,,b" in drive for drive in drives)


def test_kvm_is_taken_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, kvm=True)

    chosen = qemu.choose_accelerator(4)

    assert (chosen.name, chosen.cpus, chosen.note) == ("kvm", 4, None)


@pytest.mark.parametrize(
    ("version", "more"),
    [
        pytest.param("10.0.2 (Debian)", "", id="new"),
        # haproxy has the instruction, and doesn't ask: the CPU keeps it.
        pytest.param("7.2.22 (Debian)", " clearcpuid=cx16", id="old"),
    ],
)
def test_without_kvm_the_machine_is_emulated_and_spared_what_old_qemu_emulates_badly(
    monkeypatch: pytest.MonkeyPatch, version: str, more: str
) -> None:
    pretend(monkeypatch, kvm=False, version=version)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)

    chosen = qemu.choose_accelerator(4)

    assert (chosen.name, chosen.cpus) == ("tcg", 4)
    words = chosen.arguments
    assert words[words.index("-cpu") + 1] == "max,la57=off,smap=off,svm=off,vmx=off"
    told = f"kernel-cmdline-extra=tsc=reliable mitigations=off{more}"
    assert words[words.index("-smbios") + 1].endswith(told)
    assert chosen.note is not None
    assert "there is no /dev/kvm" in chosen.note


@pytest.mark.parametrize(
    ("host", "others", "cpus"),
    [(8, 0, 4), (8, 4, 4), (8, 12, 2), (2, 4, 1), (2, 2, 2), (2, 16, 1), (1, 0, 1)],
)
def test_an_emulated_machine_has_no_more_cpus_than_its_share_of_the_hosts(
    monkeypatch: pytest.MonkeyPatch, host: int, others: int, cpus: int
) -> None:
    pretend(monkeypatch, kvm=False)
    monkeypatch.setattr(os, "cpu_count", lambda: host)

    assert qemu.choose_accelerator(4, siblings_cpus=others).cpus == cpus

    pretend(monkeypatch, kvm=True)
    assert qemu.choose_accelerator(4, siblings_cpus=others).cpus == 4


def test_a_qemu_that_tells_no_version_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "run", lambda _command: Result(0, b"hello"))

    with pytest.raises(KubekilnError, match="does not tell its version"):
        qemu.qemu_version()


def test_the_monitors_path_is_short_however_deep_the_project_is(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90) / ("e" * 90)

    path = socket_path(deep)

    assert len(bytes(path)) < 108
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path != socket_path(tmp_path)


def test_a_qemu_that_knows_no_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, kvm=False, version="7.2.22 (Debian)")
    qemu.check_version()

    pretend(monkeypatch, kvm=False, version="7.1.0")
    with pytest.raises(KubekilnError, match=r"QEMU 7.1 can't join .* came with 7.2"):
        qemu.check_version()


def test_a_machine_that_was_never_booted_is_absent(tmp_path: Path) -> None:
    assert qemu.QemuTarget().status(make_machine(tmp_path)).state == "absent"


@pytest.mark.processes("qemu-img")
def test_the_disks_hold_keys_and_are_their_owners_alone(tmp_path: Path) -> None:
    machine = make_machine(tmp_path, etcd_disk_gib=1)
    machine.run_dir.mkdir(parents=True)
    words = ["qemu-img", "create", "-q", "-f", "qcow2", str(machine.image.qcow2), "1G"]
    machine.image.qcow2.parent.mkdir(parents=True, exist_ok=True)
    run(Command(words))

    qemu.make_disks(machine)

    disks = sorted(machine.run_dir.glob("*.qcow2"))
    assert [disk.name for disk in disks] == ["disk.qcow2", "etcd.qcow2"]
    assert {disk.stat().st_mode & 0o777 for disk in disks} == {0o600}


def test_a_removal_that_is_interrupted_leaves_no_machine_to_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(tmp_path)
    write_record(record_of("qemu", machine))
    (machine.run_dir / "disk.qcow2").write_text("a disk")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(shutil, "rmtree", interrupt)
        qemu.QemuTarget().destroy(machine)

    assert qemu.QemuTarget().status(machine).state == "absent"
    machines_dir = machine.run_dir.parents[1]
    (left,) = list_records(machines_dir)
    qemu.QemuTarget().destroy(left.machine)
    assert list_records(machines_dir) == []
    assert list(machine.run_dir.parent.glob(".*.gone")) == []


def test_destroying_what_is_not_there_is_fine(tmp_path: Path) -> None:
    qemu.QemuTarget().destroy(make_machine(tmp_path))


class GoneQemu:
    """A QEMU that does what it is told and closes its socket without a goodbye."""

    def __init__(self, _name: str) -> None: ...

    async def connect(self, _socket: str) -> None: ...

    async def execute(self, _command: str, _arguments: object) -> dict[str, str]:
        return {"status": "done"}

    async def disconnect(self) -> None:
        raise EOFError


def test_a_qemu_that_quits_without_goodbye_has_done_what_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp, "QMPClient", GoneQemu)

    assert qmp.execute(tmp_path / "socket", "quit") == {"status": "done"}
