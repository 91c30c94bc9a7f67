# SPDX-License-Identifier: Apache-2.0
"""What is a vCenter asked for to make a machine, and what of it stays with whom?

The server is govmomi's simulator: what it keeps of a request is compared with what was meant.
"""

from __future__ import annotations

import base64
import gzip
import http.client
from dataclasses import replace
from typing import Any, cast

import pytest
import yaml
from pyVmomi import vim

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import Instance, InstanceSpec, RemoteImage, TransientError
from tests.platforms.rigs.rig import Images, Trouble, upload
from tests.platforms.rigs.vsphere import FOLDER, VSphereRig

pytestmark = [
    pytest.mark.platforms, pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["vsphere"], indirect=True),
]  # fmt: skip


def config_of(vcenter: VSphereRig, instance: Instance) -> vim.vm.ConfigInfo:
    with vcenter.session() as at:
        config = at.machine(instance.id).config
        assert config is not None
        return config


def make_strange(vcenter: VSphereRig, name: str) -> None:
    """Have somebody else make a machine in our folder."""
    with vcenter.session() as at:
        folder, pool = (
            cast("Any", at.search.FindByInventoryPath(path))
            for path in (f"DC0/vm/{FOLDER}", "DC0/host/DC0_C0/Resources")
        )
        files = vim.vm.FileInfo(vmPathName="[LocalDS_0]")
        at.wait(folder.CreateVM_Task(vim.vm.ConfigSpec(name=name, files=files), pool, None))


def remove_strange(vcenter: VSphereRig, name: str) -> None:
    with vcenter.session() as at:
        machine = at.search.FindByInventoryPath(f"DC0/vm/{FOLDER}/{name}")
        assert isinstance(machine, vim.VirtualMachine)
        at.wait(machine.Destroy_Task())


def test_a_machine_has_the_hardware_that_the_node_is_to_have(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    macs = ("52:54:00:aa:bb:01", "52:54:00:aa:bb:02")
    wanted = replace(spec, cpus=3, memory_mib=2048, disk_gib=7, macs=macs)

    config = config_of(vcenter, vcenter.connect().create(wanted, image))

    assert (config.hardware.numCPU, config.hardware.memoryMB) == (3, 2048)
    devices = config.hardware.device
    disks = [one for one in devices if isinstance(one, vim.vm.device.VirtualDisk)]
    assert [disk.capacityInBytes for disk in disks] == [7 << 30]
    cards = [one for one in devices if isinstance(one, vim.vm.device.VirtualEthernetCard)]
    assert [(type(c).__name__.rpartition(".")[2], c.addressType, c.macAddress) for c in cards] == [
        ("VirtualVmxnet3", "manual", mac) for mac in macs
    ]
    distributed, plain = (card.backing for card in cards)
    assert isinstance(
        distributed, vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo
    )
    assert isinstance(plain, vim.vm.device.VirtualEthernetCard.NetworkBackingInfo)
    assert plain.deviceName == "VM Network"
    assert any(isinstance(one, vim.vm.device.ParaVirtualSCSIController) for one in devices)
    assert config.version == "vmx-17"


def test_cloud_init_finds_the_network_in_the_metadata(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    made = vcenter.connect().create(spec, image)

    values = vcenter.extra_config(made)

    assert values["guestinfo.metadata.encoding"] == "gzip+base64"
    metadata = yaml.safe_load(gzip.decompress(base64.b64decode(values["guestinfo.metadata"])))
    assert metadata == {
        "instance-id": "lab-lab-1-1",
        "local-hostname": "lab-1",
        "network": {"version": 2, "ethernets": {}},
    }


@pytest.mark.parametrize("trouble", ["cut", "server-error"])
def test_a_half_made_machine_is_shown_as_failed_and_made_anew(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec, trouble: Trouble
) -> None:
    with pytest.raises(TransientError):
        vcenter.connect(trouble).create(spec, image)
    platform = vcenter.connect()
    (half,) = platform.list_instances("lab")
    assert (half.node, half.state, half.payload) == ("lab-1", "failed", "")

    made = platform.create(spec, image)

    assert platform.list_instances() == [made]
    assert (made.state, made.id == half.id) == ("running", False)


@pytest.mark.parametrize("kind", ["image", "machine"])
def test_what_somebody_else_made_is_left_alone(
    vcenter: VSphereRig, images: Images, spec: InstanceSpec, kind: str
) -> None:
    platform = vcenter.connect()
    name = images[0].remote_name if kind == "image" else spec.name
    make_strange(vcenter, name)

    with pytest.raises(KubekilnError, match="has a machine") as raised:
        if kind == "image":
            upload(platform, images[0])
        else:
            platform.create(spec, upload(platform, images[0]))

    assert not isinstance(raised.value, TransientError)
    assert name in vcenter.leftovers()
    assert platform.list_instances() == []
    remove_strange(vcenter, name)


def test_a_machine_whose_notes_were_changed_is_not_removed(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = vcenter.connect()
    made = platform.create(spec, image)
    ours = config_of(vcenter, made).annotation
    annotate(vcenter, made, "mine now")

    with pytest.raises(KubekilnError, match="has no tags of lab's lab-1 any more"):
        platform.delete(made)

    annotate(vcenter, made, f"Ask Jo before you touch it.\n{ours}\n")
    assert platform.list_instances() == [made], "what else is in the notes doesn't matter"


def annotate(vcenter: VSphereRig, instance: Instance, text: str) -> None:
    with vcenter.session() as at:
        at.wait(at.machine(instance.id).ReconfigVM_Task(vim.vm.ConfigSpec(annotation=text)))


def test_the_console_is_what_the_serial_port_wrote_to_its_file(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = vcenter.connect()
    made = platform.create(spec, image)
    assert platform.read_console(made) == "", "it has said nothing yet"
    words = b"KUBEKILN phase=userdata t=1.0 node=lab-1\n"

    write_console(vcenter, made, words)

    assert platform.read_console(made) == words.decode()
    assert vcenter.extra_config(made)["answer.msg.serial.file.open"] == "Append"
    # The simulator removes the directory with all that is in it; a vCenter wouldn't.
    vcenter.make_trouble({"DeleteDatastoreFile_Task": "forbidden"})
    with pytest.raises(KubekilnError, match="may not do that"):
        platform.delete(made)
    vcenter.make_trouble({})
    platform.delete(made)
    assert [path for path in vcenter.files() if path.name == "console.log"] == []


def write_console(vcenter: VSphereRig, instance: Instance, words: bytes) -> None:
    """Do what the machine would, through the datastore's door for anyone with a login."""
    devices = config_of(vcenter, instance).hardware.device
    (port,) = (one for one in devices if isinstance(one, vim.vm.device.VirtualSerialPort))
    assert isinstance(port.backing, vim.vm.device.VirtualSerialPort.FileBackingInfo)
    assert port.backing.fileName == "[LocalDS_0] lab-lab-1/console.log"
    connection = vcenter.http()
    connection.request(
        "PUT", "/folder/lab-lab-1/console.log?dcPath=DC0&dsName=LocalDS_0", body=words
    )
    assert connection.getresponse().status == http.client.OK
    connection.close()


def test_without_consoles_a_machine_has_no_serial_port(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = vcenter.connect(console=False)

    made = platform.create(spec, image)

    devices = config_of(vcenter, made).hardware.device
    assert not [one for one in devices if isinstance(one, vim.vm.device.VirtualSerialPort)]
    assert platform.read_console(made) is None


def test_user_data_is_forgotten_on_request_and_the_instance_stays_the_same(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = vcenter.connect()
    made = platform.create(spec, image)

    platform.forget_user_data(made)

    values = vcenter.extra_config(made)
    assert {key for key in values if key.startswith("guestinfo.")} == {
        "guestinfo.metadata", "guestinfo.metadata.encoding",
    }  # fmt: skip
    assert platform.list_instances() == [made]


def test_a_machine_is_removed_although_its_networks_and_its_hosts_are_gone(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    made = vcenter.connect().create(spec, image)
    elsewhere = vcenter.connect(
        networks=("N9",), cluster="C9", datastore="DS9", template_folder="none", anti_affinity=True
    )

    elsewhere.delete(made)

    assert elsewhere.list_instances() == []


def test_a_missing_privilege_is_named(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = vcenter.connect()
    vcenter.make_trouble({"CloneVM_Task": "forbidden"})

    with pytest.raises(KubekilnError, match="VirtualMachine.Inventory.Create") as raised:
        platform.create(spec, image)

    assert not isinstance(raised.value, TransientError)
    vcenter.make_trouble({})
