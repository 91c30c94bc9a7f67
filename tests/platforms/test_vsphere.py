# SPDX-License-Identifier: Apache-2.0
"""What a vCenter is asked for beyond the shared contract, and what happens when it can't.

The server is govmomi's simulator: what it keeps of a request is compared with what was meant.
"""

from __future__ import annotations

import base64
import gzip
import http.client
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from pyVmomi import vim

from kubekiln.errors import IntegrityError, KubekilnError
from pipeline.targets import vsphere_import
from pipeline.targets.platform import DiskImage, Instance, InstanceSpec, RemoteImage, TransientError
from pipeline.targets.vsphere import VSpherePlatform
from pipeline.targets.vsphere_session import Session
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.rig import Trouble
from tests.platforms.rigs.vsphere import FOLDER, VSphereRig

pytestmark = [
    pytest.mark.platforms, pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["vsphere"], indirect=True),
]  # fmt: skip

Images = tuple[DiskImage, DiskImage]


@pytest.fixture
def vcenter(rig: object, images: Images) -> VSphereRig:
    del images  # which are looked for when a test has ended
    return cast("VSphereRig", rig)


@pytest.fixture
def image(vcenter: VSphereRig, images: Images) -> RemoteImage:
    return upload(vcenter.connect(), images[0])


def upload(platform: VSpherePlatform, image: DiskImage) -> RemoteImage:
    return platform.upload(image, lambda _n: None)


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


def test_a_half_imported_image_is_there_does_not_count_and_goes_with_the_next_upload(
    vcenter: VSphereRig, images: Images
) -> None:
    with pytest.raises(TransientError):
        upload(vcenter.connect("cut"), images[0])
    half = vcenter.leftovers()
    assert images[0].remote_name in half
    platform = vcenter.connect()
    assert platform.find_image(images[0]) is None

    whole = upload(platform, images[0])

    assert vcenter.leftovers().count(images[0].remote_name) == 1
    steps: list[int] = []
    assert platform.upload(images[0], steps.append) == whole, "asked again it sends nothing"
    assert sum(steps) == images[0].size


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


@pytest.mark.parametrize("host", ["sha256", "sha1"])
@pytest.mark.parametrize("what", ["on their way", "on our disk"])
def test_bytes_that_were_changed_are_noticed(
    vcenter: VSphereRig, images: Images, host: str, what: str
) -> None:
    platform = vcenter.connect()
    knows_sha1_only = {"HttpNfcLeaseSetManifestChecksumType": "unknown"} if host == "sha1" else {}
    wanted = images[0]
    if what == "on our disk":
        wanted = replace(wanted, sha256="0" * 64)
    vcenter.make_trouble(knows_sha1_only | ({"upload": "other"} if what == "on their way" else {}))

    with pytest.raises(IntegrityError, match="when it was made"):
        upload(platform, wanted)

    assert platform.find_image(wanted) is None
    vcenter.make_trouble(knows_sha1_only)
    assert upload(platform, images[0]) == platform.find_image(images[0])


def test_what_a_lease_failed_of_is_said(vcenter: VSphereRig, images: Images) -> None:
    vcenter.connect()
    unknown = vcenter.settings().model_copy(update={"hardware_version": "of tomorrow"})
    platform = VSpherePlatform(unknown, vcenter.environment)

    with pytest.raises(KubekilnError, match="it refuses that .NotSupported"):
        upload(platform, images[0])

    assert vcenter.leftovers() == []


def test_a_datastore_with_less_room_than_the_file_is_refused(
    vcenter: VSphereRig, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiskImage, "size", property(lambda _image: 1 << 60))

    with pytest.raises(KubekilnError, match="LocalDS_0 has .* GB free"):
        upload(vcenter.connect(), images[0])

    assert vcenter.leftovers() == []


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


def test_masters_are_kept_apart_as_long_as_there_are_two(
    vcenter: VSphereRig, image: RemoteImage, tmp_path: Path
) -> None:
    platform = vcenter.connect(anti_affinity=True)
    made = [
        platform.create(replace(make_spec(tmp_path, f"lab-{number}"), role=role), image)
        for number, role in ((1, "master"), (2, "worker"), (3, "master"))
    ]

    assert rules(vcenter) == {"kubekiln-lab-masters": {made[0].id, made[2].id}}
    fourth = platform.create(replace(make_spec(tmp_path, "lab-4"), role="master"), image)
    assert rules(vcenter)["kubekiln-lab-masters"] == {made[0].id, made[2].id, fourth.id}
    for one in (fourth, made[0]):
        platform.delete(one)
    assert rules(vcenter) == {}


def test_a_machine_is_removed_although_its_networks_and_its_hosts_are_gone(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    made = vcenter.connect().create(spec, image)
    elsewhere = vcenter.connect(
        networks=("N9",), cluster="C9", datastore="DS9", template_folder="none", anti_affinity=True
    )

    elsewhere.delete(made)

    assert elsewhere.list_instances() == []


def rules(vcenter: VSphereRig) -> dict[str, set[str]]:
    with vcenter.session() as at:
        config = cluster_of(at).configurationEx
        assert isinstance(config, vim.cluster.ConfigInfoEx)
        return {
            str(rule.name): {machine._GetMoId() for machine in rule.vm}
            for rule in config.rule
            if isinstance(rule, vim.cluster.AntiAffinityRuleSpec) and rule.enabled
        }


def test_without_drs_machines_go_to_the_hosts_with_the_fewest(
    vcenter: VSphereRig, images: Images, tmp_path: Path
) -> None:
    switch_drs(vcenter, on=False)
    platform = vcenter.connect()
    image = upload(platform, images[0])

    made = [platform.create(make_spec(tmp_path, f"lab-{n}"), image) for n in (1, 2)]

    switch_drs(vcenter, on=True)
    with vcenter.session() as at:
        hosts = {at.machine(one.id).runtime.host for one in made}
    assert len(hosts) == 2


def test_without_drs_a_cluster_of_which_no_host_is_in_service_is_refused(
    vcenter: VSphereRig, images: Images
) -> None:
    switch_drs(vcenter, on=False)
    with vcenter.session() as at:
        for host in cluster_of(at).host:
            at.wait(host.EnterMaintenanceMode_Task(0, False, None))

    with pytest.raises(KubekilnError, match="no host in service that reaches LocalDS_0"):
        upload(vcenter.connect(), images[0])

    with vcenter.session() as at:
        for host in cluster_of(at).host:
            at.wait(host.ExitMaintenanceMode_Task(0))
    switch_drs(vcenter, on=True)


def switch_drs(vcenter: VSphereRig, *, on: bool) -> None:
    with vcenter.session() as at:
        wanted = vim.cluster.ConfigSpecEx(drsConfig=vim.cluster.DrsConfigInfo(enabled=on))
        at.wait(cluster_of(at).ReconfigureComputeResource_Task(wanted, True))


def cluster_of(at: Session) -> vim.ClusterComputeResource:
    cluster = at.search.FindByInventoryPath("DC0/host/DC0_C0")
    assert isinstance(cluster, vim.ClusterComputeResource)
    return cluster


def test_all_that_a_target_names_and_is_not_there_is_said_at_once(vcenter: VSphereRig) -> None:
    platform = vcenter.connect(
        cluster="C9", folder="none", datastore="DS9", networks=("VM Network", "N9")
    )

    problems = platform.problems()

    assert [problem.where for problem in problems] == [
        "cluster", "folder", "template_folder", "datastore", "networks[1]",
    ]  # fmt: skip
    assert problems[0].what.endswith("has no ComputeResource /DC0/host/C9")
    assert problems[0].hint == "`govc ls -l /DC0/host` shows what is there"


def test_a_missing_privilege_is_named(
    vcenter: VSphereRig, image: RemoteImage, spec: InstanceSpec
) -> None:
    platform = vcenter.connect()
    vcenter.make_trouble({"CloneVM_Task": "forbidden"})

    with pytest.raises(KubekilnError, match="VirtualMachine.Inventory.Create") as raised:
        platform.create(spec, image)

    assert not isinstance(raised.value, TransientError)
    vcenter.make_trouble({})


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_that_is_wanted(
    vcenter: VSphereRig,
) -> None:
    environment = vcenter.environment
    del environment["GOVC_TLS_CA_CERTS"]

    (problem,) = VSpherePlatform(vcenter.settings(), environment).problems()

    assert "certificate isn't trusted" in problem.what
    environment["VSPHERE_ALLOW_UNVERIFIED_SSL"] = "true"
    assert VSpherePlatform(vcenter.settings(), environment).problems() == []


def test_a_host_is_trusted_by_the_thumbprint_that_its_vcenter_gave(vcenter: VSphereRig) -> None:
    connection = vcenter.http()
    connection.connect()
    thumbprint = vcenter.thumbprint()

    vsphere_import.check_thumbprint(connection.sock, thumbprint, "esx1")
    with pytest.raises(KubekilnError, match="esx1 has another certificate"):
        vsphere_import.check_thumbprint(connection.sock, thumbprint.replace("A", "B"), "esx1")
    connection.close()


def test_no_session_is_left_open_however_an_act_ends(
    vcenter: VSphereRig, images: Images, spec: InstanceSpec
) -> None:
    platform = vcenter.connect()
    platform.create(spec, upload(platform, images[0]))
    with pytest.raises(TransientError):
        upload(vcenter.connect("server-error"), images[1])
    vcenter.connect("wrong-credentials").problems()
    vcenter.connect()

    with vcenter.session() as at:
        sessions = at.content.sessionManager
        assert sessions is not None
        assert len(sessions.sessionList) == 1, "this one"
    upload(platform, images[1])
