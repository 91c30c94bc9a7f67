# SPDX-License-Identifier: Apache-2.0
"""Proxmox VE's API as far as kubekiln asks it: a contract fake, not Proxmox.

It keeps storages, machines and tasks, and refuses what the Perl code refuses, in its words. A task
has done nothing before it was asked about twice. It boots nothing. `pve_server` is its door.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_POLLS = 2
_GIB = 1 << 30
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": _GIB, "T": 1 << 40}


class PveError(Exception):
    """An answer that refuses; its sentence is the HTTP reason."""

    def __init__(self, status: int, sentence: str, errors: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.errors = status, sentence, errors


class TaskFailed(Exception):
    """What a task dies of."""


@dataclass
class Task:
    """A worker process of a host."""

    act: Callable[[], None]
    polls_left: int = _POLLS
    exitstatus: str = ""


@dataclass
class Storage:
    """A directory, or volumes."""

    content: set[str]
    shared: bool = False
    room: int = 1 << 40
    tells_room: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    """Images and CDs, by volume ID."""
    disks: dict[str, str] = field(default_factory=dict)
    """Disks of machines, by volume ID → the volume that they were imported from."""


@dataclass
class Machine:
    """A machine's configuration, and whether it runs."""

    host: str
    config: dict[str, str]
    lock: str | None = "create"
    running: bool = False
    pool: str | None = None


@dataclass
class Pve:
    """A cluster."""

    hosts: tuple[str, ...] = ("pve1", "pve2")
    bridges: tuple[str, ...] = ("vmbr0", "vmbr1")
    version: str = "8.4.1"
    pools: tuple[str, ...] = ("kubernetes",)
    storages: dict[str, Storage] = field(default_factory=dict)
    machines: dict[int, Machine] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    order: random.Random = field(default_factory=random.Random)
    """Of one request's parameters: that of Perl's hashes, another each time."""
    lock: Any = field(default_factory=threading.RLock)

    def begin(self, host: str, kind: str, what: str, act: Callable[[], None]) -> str:
        """Start a task; gives its UPID."""
        number = len(self.tasks) + 1
        upid = f"UPID:{host}:{number:08X}:{number:08X}:66666666:{kind}:{what}:kubekiln@pve!test:"
        self.tasks[upid] = Task(act)
        return upid

    def task_status(self, upid: str) -> dict[str, str]:
        """Look at a task, which brings it forward."""
        task = self.tasks.get(upid)
        if task is None:
            raise PveError(400, "Parameter verification failed.", {"upid": "no such task"})
        task.polls_left -= 1
        if task.polls_left == 0:
            try:
                task.act()
                task.exitstatus = "OK"
            except TaskFailed as error:
                task.exitstatus = str(error)
        done = {"status": "stopped", "exitstatus": task.exitstatus}
        return {"upid": upid, **(done if task.polls_left <= 0 else {"status": "running"})}

    def storage(self, name: str) -> Storage:
        if name not in self.storages:
            raise PveError(500, f"storage '{name}' does not exist")
        return self.storages[name]

    def upload(self, host: str, name: str, given: Mapping[str, str], data: bytes) -> str:
        """Take a file; it is there when the task is done."""
        storage, content, filename = self.storage(name), given["content"], given["filename"]
        filename = re.sub(r"[^a-zA-Z0-9_.-]", "_", filename)
        ending = {"iso": r"\.(iso|img)", "import": r"\.(ova|qcow2|raw|vmdk)"}.get(content, r"\.\w+")
        if not re.search(rf"{ending}$", filename):
            raise PveError(400, "Parameter verification failed.", {"filename": "wrong extension"})
        if content not in storage.content:
            raise PveError(500, f"storage '{name}' does not support '{content}' content")

        def act() -> None:
            kind = given.get("checksum-algorithm")
            if kind and hashlib.new(kind, data).hexdigest() != given["checksum"].lower():
                raise TaskFailed(f"checksum mismatch: expect '{given['checksum']}'")
            if content == "import" and data[:4] != b"QFI\xfb":
                raise TaskFailed("qemu-img: Could not open: Image is not in qcow2 format")
            if len(data) > storage.room:
                raise TaskFailed("import failed: cp: error writing: No space left on device")
            storage.files[f"{name}:{content}/{filename}"] = data

        return self.begin(host, "imgcopy", "", act)

    def remove_volume(self, host: str, volume: str) -> str:
        files = self.storage(volume.partition(":")[0]).files

        def act() -> None:
            files.pop(volume, None)

        return self.begin(host, "imgdel", "", act)

    def next_id(self) -> int:
        return next(number for number in range(100, 10**6) if number not in self.machines)

    def machine(self, host: str, vmid: int) -> Machine:
        found = self.machines.get(vmid)
        if found is None or found.host != host:
            path = f"nodes/{host}/qemu-server/{vmid}.conf"
            raise PveError(500, f"Configuration file '{path}' does not exist")
        return found

    def unlocked(self, host: str, vmid: int) -> Machine:
        machine = self.machine(host, vmid)
        if machine.lock:
            raise PveError(500, f"VM is locked ({machine.lock})")
        return machine

    def create(self, host: str, given: dict[str, str]) -> str:
        vmid = int(given.pop("vmid"))
        pool = given.pop("pool", None)
        self._check_drives(given)
        if pool is not None and pool not in self.pools:
            raise PveError(500, f"pool '{pool}' does not exist")
        if vmid in self.machines:
            other = self.machines[vmid].host
            raise PveError(
                500, f"unable to create VM {vmid} - VM {vmid} already exists on node '{other}'"
            )
        machine = self.machines[vmid] = Machine(host, {}, pool=pool)

        def act() -> None:
            try:
                self._configure(vmid, machine, given)
                machine.config.setdefault("boot", _default_order(machine.config))
            except TaskFailed:
                del self.machines[vmid]
                raise
            machine.lock = None

        return self.begin(host, "qmcreate", str(vmid), act)

    def configure(self, host: str, vmid: int, given: dict[str, str], *, now: bool) -> str | None:
        machine = self.unlocked(host, vmid)
        self._check_drives(given)
        if now:
            self._configure(vmid, machine, given)
            return None
        return self.begin(
            host, "qmconfig", str(vmid), lambda: self._configure(vmid, machine, given)
        )

    def resize(self, host: str, vmid: int, disk: str, size: str) -> str:
        machine = self.unlocked(host, vmid)
        if disk not in machine.config:
            raise PveError(500, f"disk '{disk}' does not exist")
        number, unit = size[:-1], size[-1]
        wanted = int(number) * _SIZES[unit]

        def act() -> None:
            have = int(re.search(r"size=(\d+)", machine.config[disk])[1])  # type: ignore[index]
            if wanted < have:
                raise TaskFailed("shrinking disks is not supported")
            machine.config[disk] = re.sub(r"size=\d+", f"size={wanted}", machine.config[disk])

        return self.begin(host, "resize", str(vmid), act)

    def power(self, host: str, vmid: int, *, on: bool) -> str:
        machine = self.unlocked(host, vmid)

        def act() -> None:
            if on and machine.running:
                raise TaskFailed(f"VM {vmid} already running")
            machine.running = on

        return self.begin(host, "qmstart" if on else "qmstop", str(vmid), act)

    def destroy(self, host: str, vmid: int, *, unreferenced: bool) -> str:
        machine = self.unlocked(host, vmid)
        if machine.running:
            raise PveError(500, f"VM {vmid} is running - destroy failed")

        def act() -> None:
            for storage in self.storages.values():
                for volume in list(storage.disks):
                    name = volume.partition(":")[2]
                    used = any(value.startswith(volume) for value in machine.config.values())
                    if name.startswith(f"vm-{vmid}-") and (used or unreferenced):
                        del storage.disks[volume]
            del self.machines[vmid]

        return self.begin(host, "qmdestroy", str(vmid), act)

    def _check_drives(self, given: Mapping[str, str]) -> None:
        for key, value in given.items():
            if not re.fullmatch(r"(scsi|ide|efidisk)\d+", key):
                continue
            file, *words = value.split(",")
            storage, _, name = file.partition(":")
            cd = "media=cdrom" in words
            if ":iso/" in file and not cd:
                sentence = "explicit 'media=cdrom' is required for iso images"
                raise PveError(400, "Parameter verification failed.", {key: sentence})
            if not cd and "images" not in self.storage(storage).content:
                sentence = f"storage '{storage}' does not support vm images"
                raise PveError(400, "Parameter verification failed.", {"storage": sentence})
            if any(word.startswith("import-from=") for word in words) and name != "0":
                sentence = "'import-from' requires special syntax"
                raise PveError(400, "Parameter verification failed.", {key: sentence})

    def _configure(self, vmid: int, machine: Machine, given: Mapping[str, str]) -> None:
        made = {}
        before = machine.config.get("boot", "")
        for key in self.order.sample(sorted(given), len(given)):
            value = given[key]
            drive = re.fullmatch(r"(scsi|ide|efidisk)\d+", key)
            made[key] = self._drive(vmid, value) if drive else value
            # API2/Qemu.pm, update_vm: behind the order that was, whatever this request says.
            is_listed = key in before.removeprefix("order=").split(";")
            if drive and before and "media=cdrom" in value and not is_listed:
                made["boot"] = f"{before};{key}"
        machine.config.update(made)

    def _drive(self, vmid: int, value: str) -> str:
        file, *words = value.split(",")
        if file == "none":
            return value
        storage = self.storage(file.partition(":")[0])
        if "media=cdrom" in words:
            if file not in storage.files:
                raise TaskFailed(f"volume '{file}' does not exist")
            return value
        source = next((w.partition("=")[2] for w in words if w.startswith("import-from=")), "")
        if source and source not in self.storage(source.partition(":")[0]).files:
            raise TaskFailed(f"unable to import: volume '{source}' does not exist")
        volume = f"{file.partition(':')[0]}:vm-{vmid}-disk-{len(storage.disks)}"
        storage.disks[volume] = source
        rest = [word for word in words if not word.startswith("import-from=")]
        gib = 0 if source else int(file.rpartition(":")[2])
        return ",".join([volume, *rest, f"size={gib << 30 or 64 << 20}"])


def _default_order(config: Mapping[str, str]) -> str:
    """What a machine is made with that names no order: its first disk, CD and network card."""
    drives = {key: value for key, value in sorted(config.items()) if key.startswith("scsi")}
    disks = [k for k, v in drives.items() if k[4:].isdigit() and "media=cdrom" not in v]
    cds = [k for k, v in drives.items() if "media=cdrom" in v]
    nets = [key for key in sorted(config) if re.fullmatch(r"net\d+", key)]
    return "order=" + ";".join([*disks[:1], *cds[:1], *nets[:1]])
