# SPDX-License-Identifier: Apache-2.0
"""What does `azure` promise of machines? (On contract fakes of compute and network.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.operations.delivery import Delivery
from kubekiln.operations.retrying import Patience
from kubekiln.paths import Project
from pipeline.targets.platform import DiskImage, Instance, InstanceSpec, TransientError
from tests.platforms.conftest import make_spec
from tests.platforms.fakes.arm_rules import ArmError, set_power
from tests.platforms.rigs.azure import AzureRig

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(300)]


def test_a_machine_has_the_addresses_that_the_cluster_declares(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    two = replace(spec, addresses=("10.80.0.11", "fd00:80::11"))
    platform = azure.connect(zones=["1", "2", "3"])

    made = platform.create(two, platform.upload(vhd_image, lambda _n: None))

    assert made.addresses == ("10.80.0.11", "fd00:80::11")
    machine = azure.arm.get(made.id)
    assert machine["zones"] == ["2"], "in turn, by the number in the node's name"
    assert machine["properties"]["osProfile"]["computerName"] == "lab-1"
    assert machine["properties"]["hardwareProfile"]["vmSize"] == "Standard_D2s_v5"


def test_all_that_is_made_of_a_machine_bears_its_tags(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    platform = azure.connect(tags={"cost-centre": "42"})
    uploaded = platform.upload(vhd_image, lambda _n: None)
    before = set(azure.arm.resources)

    platform.create(spec, uploaded)

    made = [azure.arm.resources[key] for key in set(azure.arm.resources) - before]
    assert len(made) == 3
    assert all(r["tags"] == {**spec.tags, "cost-centre": "42"} for r in made)


def test_a_machine_that_azure_has_no_room_for_says_what_helps_and_is_removed(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    platform = azure.connect()
    uploaded = platform.upload(vhd_image, lambda _n: None)
    before = azure.leftovers()
    azure.arm.refuse["lab-lab-1"] = ArmError(
        409, "ZonalAllocationFailed", "We do not have capacity"
    )

    with pytest.raises(KubekilnError) as raised:
        platform.create(spec, uploaded)

    assert not isinstance(raised.value, TransientError)
    assert "another size, zone or region" in str(raised.value)
    (found,) = platform.list_instances("lab")
    assert found.state == "failed"
    platform.delete(found)
    assert azure.leftovers() == before


def test_a_card_without_a_machine_is_found_and_removed(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    platform = azure.connect()
    uploaded = platform.upload(vhd_image, lambda _n: None)
    before = azure.leftovers()
    made = platform.create(spec, uploaded)
    # As if we had been killed between the two requests.
    machine = azure.arm.resources.pop(made.id.lower())
    nic = machine["properties"]["networkProfile"]["networkInterfaces"][0]["id"]
    azure.arm.resources[nic.lower()]["properties"].pop("virtualMachine")
    azure.arm.resources[f"{before_disks(made.id)}lab-lab-1-os"].pop("managedBy")

    (found,) = platform.list_instances()
    platform.delete(found)

    assert (found.node, found.state) == ("lab-1", "failed")
    assert azure.leftovers() == before


def test_a_disk_that_was_detached_stays_until_destroy(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec, tmp_path: Path
) -> None:
    to = Delivery("cloud", azure.connect(), Project(tmp_path), 1)
    wanted, uploaded = replace(spec, etcd_disk_gib=2), to.upload(vhd_image)
    before = azure.leftovers()
    (made,) = to.boot([wanted], uploaded)
    machine = azure.arm.get(made.id)["properties"]["storageProfile"]
    machine["dataDisks"].clear()
    of_etcd = f"{before_disks(made.id)}lab-lab-1-etcd"
    azure.arm.resources[of_etcd].pop("managedBy")
    nic = made.id.replace("Compute/virtualMachines", "Network/networkInterfaces") + "-nic"
    machines, disks, nics = (azure.arm.resources.pop(made.id.lower()), azure.arm.resources.pop(
        f"{before_disks(made.id)}lab-lab-1-os"), azure.arm.resources.pop(nic.lower()))  # fmt: skip
    assert machines and disks and nics

    with pytest.raises(KubekilnError, match="of lab-1 only a disk is left.*: lab-lab-1-etcd"):
        to.boot([wanted], uploaded)

    assert of_etcd in azure.arm.resources
    assert to.destroy("lab") == ["lab-1"]
    assert azure.leftovers() == before


def before_disks(machine_id: str) -> str:
    return machine_id.lower().replace("virtualmachines/lab-lab-1", "disks/")


def test_a_machine_of_somebody_else_with_the_same_name_is_left_alone(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    platform = azure.connect()
    uploaded = platform.upload(vhd_image, lambda _n: None)
    made = platform.create(spec, uploaded)
    tags = azure.arm.get(made.id)["tags"]
    azure.arm.get(made.id)["tags"] = {"owner": "somebody"}

    with pytest.raises(KubekilnError, match="not by kubekiln"):
        platform.create(spec, uploaded)

    azure.arm.get(made.id)["tags"] = tags


def test_a_machine_whose_tags_somebody_took_away_is_not_removed(
    azure: AzureRig, vhd_image: DiskImage, tmp_path: Path
) -> None:
    platform = azure.connect()
    made = platform.create(
        make_spec(tmp_path, "lab-1"), platform.upload(vhd_image, lambda _n: None)
    )
    machine = azure.arm.resources[made.id.lower()]
    tags, machine["tags"] = machine["tags"], {"owner": "somebody"}
    (left,) = platform.list_instances()
    assert left.state == "failed", "its parts are there without it"

    with pytest.raises(KubekilnError, match="not by kubekiln"):
        platform.delete(left)

    assert made.id.lower() in azure.arm.resources
    machine["tags"] = tags


def test_a_machine_that_was_stopped_is_started(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    platform = azure.connect()
    made = platform.create(spec, platform.upload(vhd_image, lambda _n: None))
    set_power(azure.arm.get(made.id), "deallocated")
    (stopped,) = platform.list_instances()
    assert stopped.state == "stopped"

    platform.start(stopped)

    assert [i.state for i in platform.list_instances()] == ["running"]


def test_a_machine_whose_making_was_cut_off_is_waited_for_and_never_made_anew(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec, tmp_path: Path
) -> None:
    uploaded = azure.connect().upload(vhd_image, lambda _n: None)
    patience = Patience(first_wait_s=0.001, longest_wait_s=0.01)
    cut = Delivery("cloud", azure.connect("cut"), Project(tmp_path), patience=patience)

    (made,) = cut.boot([spec], uploaded)

    assert made.state == "running"
    machine = azure.arm.get(made.id)
    azure.arm.operations.clear()
    # Powered off by somebody, and a later start found no room: its last change failed.
    set_power(machine, "deallocated")
    machine["properties"]["provisioningState"] = "Failed"
    assert [i.state for i in azure.connect().list_instances()] == ["stopped"]
    Delivery("cloud", azure.connect(), Project(tmp_path)).boot([spec], uploaded)
    assert azure.arm.get(made.id) is machine, "not removed"


def test_disks_have_their_tags_before_a_start_that_may_fail(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    platform = azure.connect()
    made = platform.create(spec, platform.upload(vhd_image, lambda _n: None))
    machine, disk = azure.arm.get(made.id), azure.arm.get(f"{before_disks(made.id)}lab-lab-1-os")
    disk.pop("tags")
    set_power(machine, "deallocated")
    (stopped,) = platform.list_instances()
    assert stopped.state == "stopped"

    platform.start(stopped)

    assert disk["tags"].items() >= spec.tags.items()


def test_the_making_of_a_machine_that_was_cut_off_and_failed_is_an_error(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    platform = azure.connect()
    uploaded = platform.upload(vhd_image, lambda _n: None)
    azure.arm.refuse["lab-lab-1"] = ArmError(
        409, "ZonalAllocationFailed", "We do not have capacity"
    )
    with pytest.raises(TransientError):
        azure.connect("cut").create(spec, uploaded)

    with pytest.raises(KubekilnError, match="Azure could not make lab-lab-1") as raised:
        platform.create(spec, uploaded)

    assert not isinstance(raised.value, TransientError)
    assert [i.state for i in platform.list_instances()] == ["failed"]


def test_what_is_left_of_a_machine_has_no_console(azure: AzureRig) -> None:
    nic = "/subscriptions/s/providers/Microsoft.Network/networkInterfaces/lab-lab-1-nic"

    assert azure.connect().read_console(Instance(nic, "lab", "lab-1", "p1", "failed")) is None


def test_the_console_is_what_boot_diagnostics_kept(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec
) -> None:
    platform = azure.connect()

    made = platform.create(spec, platform.upload(vhd_image, lambda _n: None))

    assert platform.read_console(made) == "KUBEKILN phase=userdata t=1.0\n"
