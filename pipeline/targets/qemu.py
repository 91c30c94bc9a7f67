# SPDX-License-Identifier: Apache-2.0
"""How does a node run as a QEMU machine on this host, without privileges?

KVM where it works, TCG elsewhere; the network is its cluster's; the seed is a CD.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from kubekiln.errors import KubekilnError, Problem
from kubekiln.files import make_dir
from kubekiln.process import Command, find_tool, run
from kubekiln.progress import say
from pipeline.targets.console import read_console
from pipeline.targets.emulation import (
    KERNEL_ARGUMENTS_KEY,
    SLOW_FEATURES,
    TRANSLATION_CACHE_MIB,
    kernel_arguments,
    patience_s,
)
from pipeline.targets.kvm import QEMU, kvm_works
from pipeline.targets.machine import Machine, MachineStatus
from pipeline.targets.processes import find_processes, kill_all, send, wait_gone
from pipeline.targets.qmp import execute, socket_path
from pipeline.targets.record import discard
from pipeline.targets.segment import (
    FURTHER,
    NODES,
    cable_option,
    join,
    leave,
    option,
    remove_unused,
)

_POWER_OFF_S = 90.0
_QUIT_S = 10.0
_JOINS_SINCE = (7, 2)
_KVM_PATIENCE_S = 900.0


@dataclass(frozen=True)
class Accelerator:
    """How a guest's instructions are executed."""

    name: str
    cpus: int
    arguments: tuple[str, ...]
    note: str | None = None
    """What the user should know about it."""


class QemuTarget:
    """Runs machines as QEMU processes of this user."""

    name = "qemu"
    joins_machines = True
    # The router's user network has IPv6, but forwards no port of the host to it.
    reached_by = frozenset({4})
    carries_vlans = True

    def problems(self) -> list[Problem]:
        """Say which tool lacks."""
        return [
            Problem(
                f"program {tool!r} not found (needed to run virtual machines)",
                hint="`make setup` installs it",
            )
            for tool in (QEMU, "qemu-img")
            if find_tool(tool) is None
        ]

    def patience_s(self, machines: int) -> float:
        """Give emulated machines longer, and all the more the more there are of them."""
        return _KVM_PATIENCE_S if kvm_works()[0] else patience_s(qemu_version()[0], machines)

    def boot(self, machine: Machine) -> None:
        """Make the machine's disk on top of the image's, and start QEMU in the background."""
        if _pids(machine):
            return
        check_version()
        make_dir(machine.run_dir)
        join(machine)
        make_disks(machine)
        accelerator = choose_accelerator(machine.cpus, siblings_cpus=machine.siblings_cpus)
        if accelerator.note:
            say(f"note: {accelerator.note}")
        for trace in (machine.console_log, socket_path(machine.run_dir)):
            trace.unlink(missing_ok=True)
        machine.console_log.touch(mode=0o600)
        (machine.run_dir / "accelerator").write_text(accelerator.name)
        run(Command(qemu_command(machine, accelerator)))

    def status(self, machine: Machine) -> MachineStatus:
        """Look for QEMU's process and read the machine's console."""
        pids, report = _pids(machine), read_console(machine.console_log)
        if not pids:
            known = _disk(machine).exists()
            return MachineStatus("stopped" if known else "absent", report=report)
        note = machine.run_dir / "accelerator"
        how = f"QEMU, {note.read_text()}" if note.exists() else "QEMU"
        return MachineStatus("running", pids[0], how, report)

    def stop(self, machine: Machine, *, graceful: bool = True) -> None:
        """Press the power button; end QEMU if the machine doesn't go in time."""
        if _pids(machine) and graceful and _told(machine, "system_powerdown"):
            wait_gone(QEMU, _marker(machine), timeout_s=_POWER_OFF_S)
        if _pids(machine) and _told(machine, "quit"):
            wait_gone(QEMU, _marker(machine), timeout_s=_QUIT_S)
        send(_pids(machine), signal.SIGTERM, as_root=False)
        if not wait_gone(QEMU, _marker(machine), timeout_s=_QUIT_S):
            kill_all(QEMU, _marker(machine), as_root=False)
        socket_path(machine.run_dir).unlink(missing_ok=True)
        leave(machine)

    def destroy(self, machine: Machine) -> None:
        """End QEMU and remove the machine's disk and traces; with the last one goes the network."""
        self.stop(machine, graceful=False)
        discard(machine.run_dir, lambda gone: shutil.rmtree(gone, ignore_errors=True))
        remove_unused(machine.network_dir)


def choose_accelerator(cpus: int, *, siblings_cpus: int = 0) -> Accelerator:
    """Take KVM if it runs a guest, else TCG with the CPU that this QEMU emulates well.

    Emulated, a machine has no more CPUs than its share of the host's, rounded up: of those that
    wait for the host, others wait in turn, and run in circles meanwhile (seen: twice the work of a
    boot). A master with one is worse off: its API server polls itself and keeps it from all else.
    """
    works, why = kvm_works()
    if works:
        return Accelerator("kvm", cpus, ("-accel", "kvm", "-cpu", "host"))
    hidden = "".join(f",{feature}=off" for feature in SLOW_FEATURES)
    told = kernel_arguments(qemu_version()[0])
    arguments = (
        "-accel", f"tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}", "-cpu", f"max{hidden}",
        "-smbios", f"type=11,value={KERNEL_ARGUMENTS_KEY}={told}",
    )  # fmt: skip
    share = ceil((os.cpu_count() or 1) * cpus / (cpus + siblings_cpus))
    note = f"no KVM ({why}): the machine is emulated (TCG), a boot takes minutes"
    return Accelerator("tcg", min(cpus, share), arguments, note)


def qemu_version() -> tuple[int, int]:
    """Ask QEMU for its version; raises KubekilnError if it can't be told."""
    said = run(Command([QEMU, "--version"], what_for="to run virtual machines")).text
    match = re.search(r"version (\d+)\.(\d+)", said)
    if not match:
        raise KubekilnError(f"{QEMU} does not tell its version: {said[:80]!r}")
    return int(match[1]), int(match[2])


def check_version() -> None:
    """Raise KubekilnError if this QEMU can't join machines to a network."""
    found = qemu_version()
    if found < _JOINS_SINCE:
        old, new = (".".join(map(str, version)) for version in (found, _JOINS_SINCE))
        raise KubekilnError(
            f"QEMU {old} can't join machines to a network (-netdev stream came with {new})",
            hint="install a newer one, or run with --target nspawn",
        )


def make_disks(machine: Machine) -> None:
    """Make the machine's disks unless it has them: a layer on the image's, and etcd's empty one."""
    on_image: list[str | Path] = ["-F", "qcow2", "-b", machine.image.qcow2.resolve()]
    _make_disk(_disk(machine), on_image, machine.disk_gib)
    if machine.etcd_disk_gib:
        _make_disk(_etcd_disk(machine), [], machine.etcd_disk_gib)


def _make_disk(disk: Path, options: Sequence[str | Path], gib: int) -> None:
    if disk.exists():
        return
    half = disk.with_suffix(".half")
    words = ["qemu-img", "create", "-q", "-f", "qcow2", *options, half, f"{gib}G"]
    run(Command(words, what_for="to make the machine's disk"))
    # Keys are on it, behind no permissions but these.
    half.chmod(0o600)
    half.rename(disk)


def qemu_command(machine: Machine, accelerator: Accelerator) -> list[str | Path]:
    """QEMU's whole command line; devices are those that Debian's cloud kernel has drivers for."""
    return [
        QEMU, "-name", f"{machine.cluster}-{machine.name}",
        "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", "q35",
        # Before the kernel's arguments, which the boot loader takes from the last such string.
        *_key(machine),
        *accelerator.arguments,
        "-smp", str(accelerator.cpus),
        "-m", str(machine.memory_mib),
        # Not synced for every write of etcd: the machine is as durable as the host's page cache.
        "-drive", f"file={option(_disk(machine))},if=none,id=root,format=qcow2,"
        "cache=unsafe,discard=unmap",
        "-device", "virtio-blk-pci,drive=root,bootindex=1",
        *_etcd_drive(machine),
        # Not SATA, q35's own: Debian 12's cloud kernel has no AHCI driver.
        "-device", "virtio-scsi-pci,id=scsi",
        "-drive", f"file={option(machine.seed_iso)},if=none,id=seed,format=raw,readonly=on,"
        "media=cdrom",
        "-device", "scsi-cd,bus=scsi.0,drive=seed",
        *_cards(machine),
        "-object", "rng-random,id=random,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=random",
        "-chardev", f"file,id=console,path={option(machine.console_log)},append=on",
        "-serial", "chardev:console",
        "-qmp", f"unix:{option(socket_path(machine.run_dir))},server=on,wait=off",
        "-pidfile", machine.run_dir / "pid",
        "-daemonize",
    ]  # fmt: skip


def _key(machine: Machine) -> list[str]:
    """Give the machine its key to its user-data; from a file, since others can read arguments."""
    if machine.key_dir is None:
        return []
    return ["-smbios", f"type=11,path={option(machine.key_dir / 'smbios')}"]


def _etcd_drive(machine: Machine) -> list[str]:
    if not machine.etcd_disk_gib:
        return []
    drive = f"file={option(_etcd_disk(machine))},if=none,id=etcd,format=qcow2,cache=unsafe"
    return ["-drive", f"{drive},discard=unmap", "-device", "virtio-blk-pci,drive=etcd"]


def _cards(machine: Machine) -> list[str]:
    words = []
    for index, mac in enumerate(machine.macs):
        cable = cable_option(f"net{index}", machine.network_dir, FURTHER if index else NODES)
        words += [
            "-netdev",
            cable,
            "-device",
            f"virtio-net-pci,netdev=net{index},mac={mac},romfile=",
        ]
    return words


def _disk(machine: Machine) -> Path:
    return machine.run_dir / "disk.qcow2"


def _etcd_disk(machine: Machine) -> Path:
    return machine.run_dir / "etcd.qcow2"


def _marker(machine: Machine) -> str:
    return str(machine.run_dir / "pid")


def _pids(machine: Machine) -> list[int]:
    return find_processes(QEMU, _marker(machine))


def _told(machine: Machine, command: str) -> bool:
    try:
        execute(socket_path(machine.run_dir), command)
    except KubekilnError:
        return False  # it is on its way out, or hangs: the caller goes on to firmer means
    return True
