# SPDX-License-Identifier: Apache-2.0
"""What is a node as a virtual machine of vSphere: its hardware, what cloud-init is given, its tags?

Nothing here asks a server: what is there goes in, what is to be changed comes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pyVmomi import vim

from kubekiln.channel import CHANNELS
from kubekiln.errors import Problem
from pipeline.targets.platform import TAG_PREFIX, DiskImage, InstanceSpec
from pipeline.targets.unfit import more_cards, smaller_disk, too_large
from pipeline.targets.vsphere_settings import Settings

CLUSTER, NODE, ROLE, PAYLOAD = (
    f"{TAG_PREFIX}-{what}" for what in ("cluster", "node", "role", "payload")
)
IMPORT, IMAGE, SHA256 = (f"{TAG_PREFIX}-{what}" for what in ("import", "image", "sha256"))
CONSOLE_FILE = "console.log"
_CHANNEL = CHANNELS["vsphere"]
_GIB = 1 << 30
_MEMORY_STEP_MIB = 4
# Of a SCSI bus; 7 is the controller's own.
_UNITS = tuple(number for number in range(16) if number != 7)
_NOTE = "Made by kubekiln, which finds it by these lines:"
_TAG = re.compile(rf"^({TAG_PREFIX}-[a-z0-9]+): (\S+)\s*$", re.MULTILINE)


def note(tags: Mapping[str, str]) -> str:
    """Write tags as an annotation, which every vSphere has and shows."""
    return "\n".join([_NOTE, *(f"{key}: {value}" for key, value in tags.items())])


def read_note(annotation: str | None) -> dict[str, str]:
    """Read the tags of an annotation, whatever else somebody wrote there."""
    return dict(_TAG.findall(annotation or ""))


def image_tags(image: DiskImage) -> dict[str, str]:
    """Name what an image was baked from, and the file that was uploaded."""
    return {IMAGE: image.digest, SHA256: image.sha256}


def import_tags(image: DiskImage) -> dict[str, str]:
    """Tag an image that is being uploaded: it is ours, and doesn't count."""
    return {IMPORT: image.digest}


def unfinished_tags(spec: InstanceSpec) -> dict[str, str]:
    """Tag a machine that is being made: without the payload, which its last change gives it."""
    return {CLUSTER: spec.cluster, NODE: spec.node, ROLE: spec.role}


def finished_tags(spec: InstanceSpec) -> dict[str, str]:
    """Tag a machine that only has to be powered on."""
    return {**unfinished_tags(spec), PAYLOAD: spec.payload}


def guest_info(spec: InstanceSpec) -> dict[str, str]:
    """Give what cloud-init's DataSourceVMware reads, by key.

    The network's configuration is a part of the metadata there.
    """
    values = {key: value.reveal_text() for key, value in spec.attached("vsphere").items()}
    return {**values, **_CHANNEL.beside}


FORGOTTEN = {_CHANNEL.file: "", f"{_CHANNEL.file}.encoding": ""}
"""What makes vCenter forget user-data. The metadata stays: cloud-init knows the instance by it."""


def options(values: Mapping[str, str]) -> list[vim.option.OptionValue]:
    """Write settings as vSphere's `extraConfig`."""
    return [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]


def finish(
    spec: InstanceSpec,
    devices: Iterable[vim.vm.device.VirtualDevice],
    networks: Sequence[vim.vm.device.VirtualDevice.BackingInfo],
    console: str | None,
    *,
    policy: str | None = None,
) -> vim.vm.ConfigSpec:
    """Change a clone into the node: all at once, so that its tags are there with all the rest."""
    there = list(devices)
    changes = [*_grown(spec, there), *_etcd_disk(spec, there, policy)]
    changes += _cards(spec, there, networks)
    extra = guest_info(spec)
    if console:
        changes.append(_console(console))
        # Else a machine that is started again waits for somebody to say what becomes of the file.
        extra["answer.msg.serial.file.open"] = "Append"
    return vim.vm.ConfigSpec(
        numCPUs=spec.cpus, memoryMB=spec.memory_mib, deviceChange=changes,
        extraConfig=options(extra), annotation=note(finished_tags(spec)),
    )  # fmt: skip


def console_of(devices: Iterable[vim.vm.device.VirtualDevice]) -> str | None:
    """Name the file that a machine's console is written to, wherever it was made."""
    for device in devices:
        backing = device.backing
        if isinstance(
            backing, vim.vm.device.VirtualSerialPort.FileBackingInfo
        ) and backing.fileName.endswith(f"/{CONSOLE_FILE}"):
            return str(backing.fileName)
    return None


def refusals(spec: InstanceSpec, image: DiskImage, settings: Settings) -> Iterator[Problem]:
    """Say what of a node a clone of the image can't have."""
    yield from too_large(spec, "vsphere")
    yield from more_cards(spec, len(settings.networks))
    yield from smaller_disk(spec, image)
    if spec.memory_mib % _MEMORY_STEP_MIB:
        right = -(-spec.memory_mib // _MEMORY_STEP_MIB) * _MEMORY_STEP_MIB
        yield Problem(
            f"{spec.node} has {spec.memory_mib} MiB of memory, vSphere takes multiples of "
            f"{_MEMORY_STEP_MIB}",
            hint=f"give it `memory_mib: {right}`",
        )


def _disks(devices: Iterable[vim.vm.device.VirtualDevice]) -> list[vim.vm.device.VirtualDisk]:
    return [one for one in devices if isinstance(one, vim.vm.device.VirtualDisk)]


def _capacity(disk: vim.vm.device.VirtualDisk) -> int:
    return int(disk.capacityInBytes or disk.capacityInKB * 1024)


def _grown(
    spec: InstanceSpec, devices: Iterable[vim.vm.device.VirtualDevice]
) -> list[vim.vm.device.VirtualDeviceSpec]:
    return [
        _change("edit", _grown_disk(disk, spec.disk_gib))
        for disk in _disks(devices)
        if _capacity(disk) < spec.disk_gib * _GIB
    ]


def _grown_disk(disk: vim.vm.device.VirtualDisk, gib: int) -> vim.vm.device.VirtualDisk:
    return vim.vm.device.VirtualDisk(
        key=disk.key, controllerKey=disk.controllerKey, unitNumber=disk.unitNumber,
        backing=disk.backing, capacityInBytes=gib * _GIB, capacityInKB=gib * (_GIB >> 10),
    )  # fmt: skip


def _etcd_disk(
    spec: InstanceSpec, devices: Iterable[vim.vm.device.VirtualDevice], policy: str | None
) -> Iterator[vim.vm.device.VirtualDeviceSpec]:
    """Add an empty disk beside the template's, on the same controller."""
    if not spec.etcd_disk_gib:
        return
    there = list(devices)
    controller = _disks(there)[0].controllerKey
    taken = {one.unitNumber for one in there if one.controllerKey == controller}
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
        fileName="", diskMode="persistent", thinProvisioned=True
    )
    disk = vim.vm.device.VirtualDisk(
        key=-200, controllerKey=controller, backing=backing,
        unitNumber=next(n for n in _UNITS if n not in taken),
        capacityInBytes=spec.etcd_disk_gib * _GIB, capacityInKB=spec.etcd_disk_gib * (_GIB >> 10),
    )  # fmt: skip
    yield vim.vm.device.VirtualDeviceSpec(
        operation="add", fileOperation="create", device=disk, profile=profiles(policy)
    )


def profiles(policy: str | None) -> list[vim.vm.DefinedProfileSpec]:
    """Name a storage policy, if there is one, as requests want it."""
    return [vim.vm.DefinedProfileSpec(profileId=policy)] if policy else []


def _cards(
    spec: InstanceSpec,
    devices: Iterable[vim.vm.device.VirtualDevice],
    networks: Sequence[vim.vm.device.VirtualDevice.BackingInfo],
) -> list[vim.vm.device.VirtualDeviceSpec]:
    """Replace the template's cards by the node's, with its own addresses, in its own order."""
    old = [one for one in devices if isinstance(one, vim.vm.device.VirtualEthernetCard)]
    changes = [_change("remove", card) for card in old]
    for number, (mac, network) in enumerate(zip(spec.macs, networks, strict=False), 1):
        card = vim.vm.device.VirtualVmxnet3(
            key=-number, backing=network, addressType="manual", macAddress=mac,
            connectable=vim.vm.device.VirtualDevice.ConnectInfo(
                startConnected=True, allowGuestControl=True, connected=True
            ),
        )  # fmt: skip
        changes.append(_change("add", card))
    return changes


def _console(path: str) -> vim.vm.device.VirtualDeviceSpec:
    backing = vim.vm.device.VirtualSerialPort.FileBackingInfo(fileName=path)
    port = vim.vm.device.VirtualSerialPort(key=-100, yieldOnPoll=True, backing=backing)
    return _change("add", port)


def _change(operation: str, device: vim.vm.device.VirtualDevice) -> vim.vm.device.VirtualDeviceSpec:
    return vim.vm.device.VirtualDeviceSpec(operation=operation, device=device)
