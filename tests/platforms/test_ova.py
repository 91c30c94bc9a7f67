# SPDX-License-Identifier: Apache-2.0
"""Does an importer that isn't ours take our OVA, and make of it what the descriptor says?

govc, which reads the archive, checks the manifest and uploads; the vCenter is govmomi's simulator.
What that one doesn't look at in a descriptor (firmware, settings), govmomi's own reader tells.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pyVmomi import vim

from kubekiln.files import sha256_bytes
from pipeline.disk.formats import as_format
from pipeline.disk.ova import read_ova
from pipeline.disk.ovf import Appliance
from pipeline.targets.platform import DiskImage
from tests.platforms.rigs.vsphere import FOLDER, VSphereRig
from tests.support.disks import MIB, make_raw, publish, raw_sha256

pytestmark = [
    pytest.mark.platforms, pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["vsphere"], indirect=True),
]  # fmt: skip

SIZE_MIB = 24
# What every machine of the simulator has; the CD drive's controller is one more of the last kind.
_OTHER = (
    vim.vm.device.VirtualPS2Controller, vim.vm.device.VirtualPCIController,
    vim.vm.device.VirtualSIOController, vim.vm.device.VirtualKeyboard,
    vim.vm.device.VirtualPointingDevice, vim.vm.device.VirtualVideoCard,
    vim.vm.device.VirtualVMCIDevice, vim.vm.device.VirtualIDEController,
)  # fmt: skip


@pytest.fixture
def vcenter(rig: object) -> Iterator[VSphereRig]:
    """A simulator from which all that was imported is removed."""
    at = cast("VSphereRig", rig)
    yield at
    if names := at.leftovers():
        at.govc("vm.destroy", *names)


@pytest.fixture
def ova(tmp_path: Path) -> DiskImage:
    """What `image convert --format ova` makes of a published image."""
    raw = make_raw(tmp_path / "disk.raw", size_mib=SIZE_MIB)
    return as_format(publish(raw, tmp_path), "ova")


def appliance(ova: DiskImage) -> Appliance:
    """Give the machine that the descriptor is to describe."""
    return Appliance(ova.path.stem, SIZE_MIB * MIB)


def imported(vcenter: VSphereRig, name: str) -> vim.vm.ConfigInfo:
    """Find the machine that an import has made."""
    with vcenter.session() as at:
        machine = at.search.FindByInventoryPath(f"DC0/vm/{FOLDER}/{name}")
        assert isinstance(machine, vim.VirtualMachine)
        assert machine.config is not None
        return machine.config


def options(vcenter: VSphereRig, ova: DiskImage) -> dict[str, Any]:
    """Let govc say what can be chosen at the import."""
    found: dict[str, Any] = json.loads(vcenter.govc("import.spec", ova.path).text)
    return found


def test_an_importer_makes_the_machine_that_the_descriptor_describes(
    vcenter: VSphereRig, ova: DiskImage
) -> None:
    wanted = appliance(ova)

    vcenter.govc("import.ova", "-m", ova.path)

    config = imported(vcenter, wanted.name)
    hardware = config.hardware
    assert (hardware.numCPU, hardware.memoryMB) == (wanted.cpus, wanted.memory_mib)
    assert (config.version, config.guestId) == ("vmx-17", "debian11_64Guest")
    scsi, disk, drive, card = (d for d in hardware.device if not isinstance(d, _OTHER))
    assert isinstance(scsi, vim.vm.device.ParaVirtualSCSIController)
    assert isinstance(disk, vim.vm.device.VirtualDisk)
    assert (disk.controllerKey, disk.unitNumber) == (scsi.key, 0)
    assert disk.capacityInBytes == ova.virtual_size == wanted.virtual_size
    assert isinstance(drive, vim.vm.device.VirtualCdrom), "for the transport `iso`"
    assert isinstance(card, vim.vm.device.VirtualVmxnet3)
    assert isinstance(card.backing, vim.vm.device.VirtualEthernetCard.NetworkBackingInfo)
    assert card.backing.deviceName == wanted.network


def test_the_bytes_that_arrive_are_the_disk(
    vcenter: VSphereRig, ova: DiskImage, tmp_path: Path
) -> None:
    vcenter.govc("import.ova", "-m", ova.path)

    arrived = vcenter.newest_upload()
    inside = read_ova(ova.path)
    archive = ova.path.read_bytes()
    assert sha256_bytes(arrived.read_bytes()) == sha256_bytes(
        archive[inside.disk_offset : inside.disk_offset + inside.disk_size]
    )
    assert raw_sha256(arrived, "vmdk", tmp_path) == sha256_bytes(
        (tmp_path / "disk.raw").read_bytes()
    )


def test_what_can_be_chosen_at_the_import_arrives(
    vcenter: VSphereRig, ova: DiskImage, tmp_path: Path
) -> None:
    chosen = options(vcenter, ova)
    (network,) = chosen["NetworkMapping"]
    properties = {one["Key"]: one for one in chosen["PropertyMapping"]}
    assert network["Name"] == appliance(ova).network
    assert {key: one["Value"] for key, one in properties.items()} == {
        "instance-id": ova.path.stem, "user-data": "",
    }  # fmt: skip

    network["Network"] = "DC0_DVPG0"
    properties["user-data"]["Value"] = "I2Nsb3VkLWNvbmZpZwo="
    (tmp_path / "options.json").write_text(json.dumps(chosen | {"MarkAsTemplate": True}))
    vcenter.govc("import.ova", "-m", "-options", tmp_path / "options.json", ova.path)

    config = imported(vcenter, ova.path.stem)
    assert config.template
    (card,) = (
        one for one in config.hardware.device if isinstance(one, vim.vm.device.VirtualVmxnet3)
    )
    assert isinstance(
        card.backing, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo
    )
    assert isinstance(config.vAppConfig, vim.vApp.VmConfigInfo)
    assert {one.id: one.value for one in config.vAppConfig.property} == {
        "instance-id": ova.path.stem, "user-data": "I2Nsb3VkLWNvbmZpZwo=",
    }  # fmt: skip


def break_ova(path: Path, what: str) -> None:
    """Change one byte of a member, or take the last ones away."""
    with tarfile.open(path) as archive:
        members = {Path(one.name).suffix: one for one in archive}
    if what == "cut":
        disk = members[".vmdk"]
        with path.open("r+b") as file:
            file.truncate(disk.offset_data + disk.size // 2)
        return
    member = members[what]
    # Of the manifest, the last digit of the disk's checksum; the line ends behind it.
    at = member.offset_data + (member.size - 2 if what == ".mf" else member.size // 2)
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("what", "why"),
    [(".vmdk", "mismatch with uploaded"), (".mf", "mismatch with uploaded"), ("cut", "EOF")],
)
def test_an_ova_that_was_damaged_is_refused(
    vcenter: VSphereRig, ova: DiskImage, tmp_path: Path, what: str, why: str
) -> None:
    (tmp_path / "options.json").write_text(
        json.dumps(options(vcenter, ova) | {"MarkAsTemplate": True})
    )
    break_ova(ova.path, what)

    result = vcenter.govc(
        "import.ova", "-m", "-options", tmp_path / "options.json", ova.path, check=False
    )

    assert result.returncode == 1
    assert why in result.stderr.decode()
    # A vCenter removes what a lease that is given up has made; the simulator leaves it.
    assert not imported(vcenter, ova.path.stem).template


def test_govmomi_reads_firmware_and_settings_in_the_descriptor(
    vcenter: VSphereRig, ova: DiskImage
) -> None:
    spec = json.loads(vcenter.govc("ovf.configspec", ova.path).text)

    wanted = appliance(ova)
    assert (spec["firmware"], spec["version"]) == (wanted.firmware, "vmx-17")
    assert (spec["numCPUs"], spec["memoryMB"]) == (wanted.cpus, wanted.memory_mib)
    (extra,) = spec["extraConfig"]
    assert (extra["key"], extra["value"]["_value"]) == ("disk.EnableUUID", "TRUE")
    devices = {one["device"]["_typeName"]: one["device"] for one in spec["deviceChange"]}
    assert list(devices) == [
        "ParaVirtualSCSIController", "VirtualIDEController", "VirtualDisk", "VirtualCdrom",
        "VirtualVmxnet3",
    ]  # fmt: skip
    disk = devices["VirtualDisk"]
    assert disk["capacityInBytes"] == wanted.virtual_size
    assert disk["controllerKey"] == devices["ParaVirtualSCSIController"]["key"]


def test_govmomi_reads_the_vmdk(vcenter: VSphereRig, ova: DiskImage, tmp_path: Path) -> None:
    with tarfile.open(ova.path) as archive:
        archive.extract(f"{ova.path.stem}.vmdk", tmp_path, filter="data")

    about = json.loads(
        vcenter.govc("import.vmdk", "-i", "-json", tmp_path / f"{ova.path.stem}.vmdk").text
    )

    assert about["capacity"] == SIZE_MIB * MIB
    assert about["descriptor"]["ddb"]["adapterType"] == "lsilogic"
    (extent,) = about["descriptor"]["extent"]
    assert (extent["type"], extent["size"]) == ("SPARSE", SIZE_MIB * MIB // 512)
