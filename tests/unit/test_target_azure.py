# SPDX-License-Identifier: Apache-2.0
"""What does kubekiln ask of Azure, and how does it read the answers?"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kubekiln.errors import ConfigError, KubekilnError
from pipeline.targets.azure import Settings
from pipeline.targets.azure_account import default_subscription, resource_id
from pipeline.targets.azure_blob import CHUNK, chunks, merged
from pipeline.targets.azure_errors import explain
from pipeline.targets.azure_images import managed_image_body, version_body, version_of
from pipeline.targets.azure_machines import (
    Place,
    instances_of,
    nic_body,
    pick_size,
    refusals,
    state_of,
    vm_body,
)
from pipeline.targets.platform import DiskImage, InstanceSpec, RemoteImage, TransientError
from pipeline.targets.spread import pick_for

IMAGE = DiskImage("debian-13", "ab" * 32, Path("/disk"), "vhd", "cd" * 32, 8 << 30)
PLACE = Place("/subnets/nodes", ssh_public_key="ssh-rsa AAAA")
TAGS = {
    "kubekiln-cluster": "lab", "kubekiln-node": "lab-1", "kubekiln-payload": "0123456789abcdef",
}  # fmt: skip


def settings(**more: Any) -> Settings:
    return Settings.model_validate({
        "type": "azure", "resource_group": "rg", "location": "westeurope",
        "storage_account": "images", "subnet": "net/nodes", **more,
    })  # fmt: skip


def node(directory: Path, **more: Any) -> InstanceSpec:
    for name in ("user-data", "meta-data", "network-config"):
        (directory / name).write_bytes(b"#cloud-config\n")
    given: dict[str, Any] = {
        "cluster": "lab", "node": "lab-1", "role": "worker", "seed_dir": directory,
        "seed_iso": directory / "seed.iso", "payload": "0123456789abcdef",
        "macs": ("52:54:00:aa:bb:01",), "addresses": ("10.80.0.11",), "cpus": 2,
        "memory_mib": 4096, "disk_gib": 20,
    }  # fmt: skip
    return InstanceSpec(**{**given, **more})


def image(directory: Path) -> DiskImage:
    return DiskImage("debian-13", "ab" * 32, directory / "x.vhd", "vhd", "cd" * 32, 64 << 20)


def resource(name: str, **properties: Any) -> dict[str, Any]:
    return {"id": f"/{name}", "name": name, "tags": TAGS, "properties": properties}


def test_custom_data_is_the_gzipped_user_data_in_base64(tmp_path: Path) -> None:
    spec = node(tmp_path)

    body = vm_body(settings(), PLACE, spec, RemoteImage("/image", "image"), "/nic")

    profile = body["properties"]["osProfile"]
    assert base64.b64decode(profile["customData"]) == spec.user_data.reveal()
    assert profile["linuxConfiguration"]["provisionVMAgent"] is False
    assert profile["linuxConfiguration"]["disablePasswordAuthentication"] is True


def test_card_and_disk_go_with_the_machine(tmp_path: Path) -> None:
    body = vm_body(settings(), PLACE, node(tmp_path), RemoteImage("/image", "image"), "/nic")

    (nic,) = body["properties"]["networkProfile"]["networkInterfaces"]
    assert nic == {"id": "/nic", "properties": {"primary": True, "deleteOption": "Delete"}}
    assert body["properties"]["storageProfile"]["osDisk"]["deleteOption"] == "Delete"
    assert body["tags"] == TAGS


def test_the_card_has_the_nodes_addresses_and_ipv4_comes_first(tmp_path: Path) -> None:
    spec = node(tmp_path, addresses=("fd00::11", "10.80.0.11"))

    body = nic_body(settings(), PLACE, spec)

    configurations = [c["properties"] for c in body["properties"]["ipConfigurations"]]
    assert [(c["privateIPAddressVersion"], c["primary"], c["privateIPAddress"])
            for c in configurations] == [
        ("IPv4", True, "10.80.0.11"), ("IPv6", False, "fd00::11"),
    ]  # fmt: skip
    assert all(c["subnet"] == {"id": "/subnets/nodes"} for c in configurations)


def test_a_card_without_ipv4_of_the_cluster_gets_one_from_azure(tmp_path: Path) -> None:
    body = nic_body(settings(), PLACE, node(tmp_path, addresses=("fd00::11",)))

    methods = [c["properties"]["privateIPAllocationMethod"]
               for c in body["properties"]["ipConfigurations"]]  # fmt: skip
    assert methods == ["Dynamic", "Static"]


@pytest.mark.parametrize(("cpus", "memory_mib", "more", "size"), [
    (1, 1024, {}, "Standard_D2s_v5"),
    (2, 8193, {}, "Standard_D4s_v5"),
    (5, 1024, {}, "Standard_D8s_v5"),
    (5, 1024, {"size": "Standard_B2s"}, "Standard_B2s"),
    (1, 1024, {"sizes": [{"name": "big", "cpus": 8, "memory_mib": 99999},
                         {"name": "small", "cpus": 1, "memory_mib": 2048}]}, "small"),
])  # fmt: skip
def test_the_smallest_size_that_fits_is_taken(
    tmp_path: Path, cpus: int, memory_mib: int, more: dict[str, Any], size: str
) -> None:
    spec = node(tmp_path, cpus=cpus, memory_mib=memory_mib)

    assert pick_size(settings(**more), spec) == size


def test_a_node_that_no_size_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KubekilnError, match="no size has the 999 CPUs"):
        pick_size(settings(), node(tmp_path, cpus=999))


def test_all_that_azure_cannot_make_is_said_at_once(tmp_path: Path) -> None:
    odd = node(tmp_path, macs=("a", "b"), disk_gib=7, cpus=999)

    said = [problem.what for problem in refusals(odd, IMAGE, settings())]

    assert said[:2] == [
        "lab-1 has 2 network cards, the target gives it 1",
        "lab-1 has a disk of 7 GiB, the image one of 8 GiB",
    ]
    assert said[2].startswith("no size has the 999 CPUs")
    assert list(refusals(node(tmp_path), IMAGE, settings())) == []


def test_a_relative_path_is_one_below_the_project() -> None:
    assert settings(ssh_public_key="key.pub").below(Path("/p")).ssh_public_key == Path("/p/key.pub")
    assert settings(ssh_public_key="/key.pub").below(Path("/p")).ssh_public_key == Path("/key.pub")
    assert settings().below(Path("/p")).ssh_public_key is None


def test_zones_and_an_availability_set_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="not in both"):
        settings(zones=["1"], availability_set="nodes")


@pytest.mark.parametrize(("provisioning", "power", "state"), [
    ("Creating", "running", "starting"),
    ("Succeeded", "running", "running"),
    ("Succeeded", "deallocated", "stopped"),
    ("Succeeded", "stopped", "stopped"),
    # What failed was its last start, or a change: it was made.
    ("Failed", "running", "running"),
    ("Failed", "deallocated", "stopped"),
    ("Deleting", "running", "failed"),
    ("Updating", "starting", "starting"),
])  # fmt: skip
def test_a_machines_state_is_whether_it_was_made_then_whether_it_runs(
    provisioning: str, power: str, state: str
) -> None:
    codes = [{"code": "ProvisioningState/x"}, {"code": f"PowerState/{power}"}]
    machine = resource("m", provisioningState=provisioning, instanceView={"statuses": codes})

    assert state_of(machine, was_made=True)[0] == state


def test_a_machine_whose_disks_have_no_tags_yet_is_not_made_to_its_end() -> None:
    view = {"statuses": [{"code": "PowerState/running"}]}
    machine = resource("lab-lab-1", provisioningState="Succeeded", instanceView=view)

    (begun,) = instances_of([machine], [resource("lab-lab-1-nic")], [], None)
    (made,) = instances_of([machine], [], [resource("lab-lab-1-os")], None)

    assert (begun.state, made.state) == ("starting", "running")


def test_a_machine_whose_making_failed_is_failed() -> None:
    machine = resource("m", provisioningState="Failed")

    assert state_of(machine, was_made=False) == ("failed", "failed")
    (found,) = instances_of([machine], [resource("lab-lab-1-nic")], [], None)
    assert found.state == "failed"
    (found,) = instances_of([machine], [], [resource("lab-lab-1-os")], None)
    assert found.state == "stopped", "its disk has our tags: it was made"


def test_parts_without_a_machine_are_a_failed_machine() -> None:
    other = {**resource("else"), "tags": {"owner": "somebody"}}

    (found,) = instances_of([], [resource("lab-lab-1-nic"), other], [resource("d")], None)

    assert (found.cluster, found.node, found.state) == ("lab", "lab-1", "failed")
    assert found.extra == {"nics": "lab-lab-1-nic", "disks": "d"}
    assert found.lone_disks == ("d",)
    assert instances_of([resource("m")], [], [], "another") == []


def test_an_images_version_is_made_of_its_digest() -> None:
    assert version_of("0" * 64) == "1.0.0"
    major, minor, patch = version_of("f" * 64).split(".")
    assert max(int(minor), int(patch)) < 2**31
    assert major == "1"


def test_images_say_how_they_boot_and_where_they_are(tmp_path: Path) -> None:
    chosen = settings(generation="V1", gallery={"name": "g", "regions": ["westeurope", "north"]})
    assert chosen.gallery

    managed = managed_image_body(chosen, image(tmp_path), "https://blob")
    version = version_body(chosen, chosen.gallery, image(tmp_path), "https://blob", "/account")

    assert managed["properties"]["hyperVGeneration"] == "V1"
    assert managed["tags"]["kubekiln-sha256"] == "cd" * 32
    regions = version["properties"]["publishingProfile"]["targetRegions"]
    assert [region["name"] for region in regions] == ["westeurope", "north"]


@pytest.mark.parametrize(("status", "code", "transient"), [
    (503, "ServerBusy", True),
    (429, "TooManyRequests", True),
    (429, "OperationNotAllowed", True),
    (409, "AnotherOperationInProgress", True),
    (400, "NicReservedForAnotherVm", True),
    (500, "", True),
    (409, "QuotaExceeded", False),
    (403, "AuthorizationPermissionMismatch", False),
    (200, "AllocationFailed", False),
    (404, "ResourceNotFound", False),
])  # fmt: skip
def test_what_azure_says_passes_or_has_a_hint(status: int, code: str, transient: bool) -> None:
    error = explain("make m", status, code, "because")

    assert isinstance(error, TransientError) is transient
    assert transient or error.problems[0].hint
    assert error.problems[0].what.startswith("make m: ")


def test_a_resource_is_named_by_its_parts_or_by_its_id() -> None:
    kind = "Microsoft.Network/virtualNetworks/subnets"

    assert resource_id("s", "rg", kind, "/an/id") == "/an/id"
    assert resource_id("s", "rg", kind, "net/nodes") == (
        "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/virtualNetworks/net"
        "/subnets/nodes"
    )
    with pytest.raises(ConfigError, match="'nodes' does not name"):
        resource_id("s", "rg", kind, "nodes")


def test_the_subscription_is_that_of_the_environment_else_of_az(tmp_path: Path) -> None:
    (tmp_path / ".azure").mkdir()
    known = [{"id": "one", "isDefault": False}, {"id": "two", "isDefault": True}]
    profile = "\ufeff" + json.dumps({"subscriptions": known})
    (tmp_path / ".azure" / "azureProfile.json").write_text(profile, "utf-8")

    assert default_subscription({"AZURE_SUBSCRIPTION_ID": "env"}, tmp_path) == "env"
    assert default_subscription({}, tmp_path) == "two"
    with pytest.raises(ConfigError, match="no subscription is chosen"):
        default_subscription({"AZURE_CONFIG_DIR": str(tmp_path)}, tmp_path)


def test_ranges_that_touch_are_one() -> None:
    assert merged([(8, 12), (0, 4), (4, 8), (20, 24), (21, 22)]) == [(0, 12), (20, 24)]


def test_a_file_is_cut_into_what_one_request_takes() -> None:
    # https://learn.microsoft.com/rest/api/storageservices/put-page
    assert CHUNK == 4 * 1024 * 1024
    assert list(chunks(CHUNK + 512)) == [(0, CHUNK), (CHUNK, CHUNK + 512)]


def test_neighbours_go_to_different_places_and_stay_there() -> None:
    zones = ("1", "2", "3")

    assert len({pick_for(f"lab-{number}", zones) for number in (1, 2, 3)}) == 3
    assert pick_for("nameless", zones) == pick_for("nameless", zones)
