# SPDX-License-Identifier: Apache-2.0
"""What is a virtual machine of the inventory to us, and how is one found, started and removed?"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from pyVmomi import vim

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import (
    DiskImage,
    Instance,
    InstanceState,
    RemoteImage,
    TransientError,
)
from pipeline.targets.vsphere_machine import (
    CLUSTER,
    CONSOLE_FILE,
    IMAGE,
    IMPORT,
    NODE,
    PAYLOAD,
    console_of,
    read_note,
)
from pipeline.targets.vsphere_places import Home
from pipeline.targets.vsphere_session import Session

ABOUT = (
    "name", "config.annotation", "config.template", "config.files.vmPathName",
    "runtime.powerState", "runtime.connectionState", "guest.net",
)  # fmt: skip
"""What is read of a machine. Not its extraConfig: user-data is in there."""

_ON = vim.VirtualMachine.PowerState.poweredOn
_CONNECTED = vim.VirtualMachine.ConnectionState.connected


def child(at: Session, folder: vim.Folder, name: str) -> vim.VirtualMachine | None:
    """Find a machine or template of a folder by its name."""
    found = at.search.FindChild(folder, name)
    return found if isinstance(found, vim.VirtualMachine) else None


def tags_of(about: Mapping[str, Any]) -> dict[str, str]:
    """Give the tags of a machine of which something was read."""
    return read_note(about.get("config.annotation"))


def refuse_unknown(at: Session, about: Mapping[str, Any]) -> None:
    """Raise TransientError if a machine is only just being made: it says nothing of itself yet."""
    if "config.template" not in about:
        raise TransientError(f"{at.access.host}: {about.get('name')} is being made")


def is_whole(about: Mapping[str, Any], image: DiskImage) -> bool:
    """Tell whether this is a template of the image; it becomes one as the last thing."""
    return bool(about.get("config.template")) and tags_of(about).get(IMAGE) == image.digest


def image_of(template: vim.VirtualMachine, about: Mapping[str, Any]) -> RemoteImage:
    """Say what a template of ours is to who asks for it."""
    return RemoteImage(template._GetMoId(), about["name"])


def refuse_strange(about: Mapping[str, Any], folder: vim.Folder) -> None:
    """Raise KubekilnError unless it is an image of ours, whole or not."""
    if not {IMAGE, IMPORT} & tags_of(about).keys():
        raise KubekilnError(
            f"{folder.name} has a machine {about['name']} that isn't of kubekiln",
            hint="rename or remove it, or give the target another `template_folder`",
        )


def instance_of(machine: vim.VirtualMachine, about: Mapping[str, Any]) -> Instance:
    """Say what a machine of ours is to who asks for it."""
    tags = tags_of(about)
    state, detail = _state(about, tags)
    return Instance(
        id=machine._GetMoId(),
        cluster=tags[CLUSTER],
        node=tags[NODE],
        payload=tags.get(PAYLOAD, ""),
        state=state,
        addresses=tuple(
            address for card in about.get("guest.net", ()) for address in card.ipAddress
        ),
        detail=detail,
    )


def _state(about: Mapping[str, Any], tags: Mapping[str, str]) -> tuple[InstanceState, str]:
    if PAYLOAD not in tags:
        return "failed", "it wasn't made to the end"
    # Not `failed`: it may well run, and be back with its host a moment later.
    connection = about.get("runtime.connectionState", _CONNECTED)
    detail = "" if connection == _CONNECTED else f"its host is {connection}"
    return ("running" if about.get("runtime.powerState") == _ON else "stopped"), detail


def power_on(at: Session, machine: vim.VirtualMachine) -> None:
    """Power a machine on; fine if it runs."""
    with contextlib.suppress(vim.fault.InvalidPowerState):
        at.wait(machine.PowerOnVM_Task())


def devices_of(at: Session, machine: vim.VirtualMachine) -> Sequence[vim.vm.device.VirtualDevice]:
    """Read what a machine consists of."""
    found = at.properties(machine, ["config.hardware.device"])
    devices: Sequence[vim.vm.device.VirtualDevice] = found.get("config.hardware.device", ())
    return devices


def new_console(about: Mapping[str, Any]) -> str:
    """Name the file that a machine's console is to go to: in its directory, beside its others."""
    directory = str(about["config.files.vmPathName"]).rpartition("/")[0]
    return f"{directory}/{CONSOLE_FILE}"


def destroy(at: Session, home: Home, machine: vim.VirtualMachine, about: Mapping[str, Any]) -> None:
    """Power a machine off and remove it with its disks; with its console's file, if it has one."""
    if about.get("runtime.powerState") == _ON:
        with contextlib.suppress(vim.fault.InvalidPowerState):
            at.wait(machine.PowerOffVM_Task())
    console = console_of(devices_of(at, machine))
    if console:
        # The server takes it for no part of the machine, and would leave it and its directory.
        _remove_file(at, home, console)
    at.wait(machine.Destroy_Task())


def _remove_file(at: Session, home: Home, path: str) -> None:
    files = at.content.fileManager
    assert files is not None
    with contextlib.suppress(vim.fault.FileNotFound):
        at.wait(files.DeleteDatastoreFile_Task(path, home.datacenter))
