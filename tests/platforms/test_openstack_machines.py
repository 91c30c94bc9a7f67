# SPDX-License-Identifier: Apache-2.0
"""What does `openstack` promise of machines? (On contract fakes of Nova and Neutron.)"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from openstack.compute.v2.server import Server

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import InstanceSpec, RemoteImage, TransientError
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.openstack import OpenStackRig
from tests.platforms.rigs.rig import Images, Rig

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["openstack"], indirect=True),
]


def ignore(_more: int) -> None: ...


@pytest.fixture
def cloud(rig: Rig) -> OpenStackRig:
    return cast("OpenStackRig", rig)


@pytest.fixture
def uploaded(cloud: OpenStackRig, images: Images) -> RemoteImage:
    return cloud.connect().upload(images[0], ignore)


@pytest.fixture(autouse=True)
def no_failure_is_left(cloud: OpenStackRig) -> Iterator[None]:
    yield
    cloud.nova.fail_with, cloud.nova.no_console = "", 0


def test_ports_have_the_addresses_that_were_rendered(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec
) -> None:
    platform = cloud.connect(networks=[
        {"name": "node", "allowed_addresses": ["10.244.0.0/16"], "security_groups": ["k8s"]},
        {"name": "storage", "port_security": False},
    ])  # fmt: skip
    (spec.seed_dir / "network-config").write_text(
        'version: 2\nethernets:\n  eth1: {match: {macaddress: "52:54:00:00:90:01"}, '
        "addresses: [10.90.0.11/24]}\n"
    )

    made = platform.create(replace(spec, macs=(*spec.macs, "52:54:00:00:90:01")), uploaded)

    node, storage = cloud.neutron.ports.values()
    assert (node["mac_address"], node["fixed_ips"]) == (
        spec.macs[0], [{"ip_address": spec.addresses[0]}],
    )  # fmt: skip
    assert node["allowed_address_pairs"] == [{"ip_address": "10.244.0.0/16"}]
    assert [cloud.neutron.groups[one] for one in node["security_groups"]] == ["k8s"]
    assert storage["fixed_ips"] == [{"ip_address": "10.90.0.11"}]
    assert storage["port_security_enabled"] is False
    assert made.addresses == ("10.80.0.11", "10.90.0.11")


def test_a_boot_volume_goes_with_its_machine(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec
) -> None:
    platform = cloud.connect(boot_from="volume", config_drive=False)
    made = platform.create(spec, uploaded)
    (volume,) = cloud.nova.volumes.values()
    assert volume["volume_size"] == spec.disk_gib

    platform.delete(made)

    assert cloud.nova.volumes == {}


def test_masters_share_a_server_group_that_goes_with_the_last(
    cloud: OpenStackRig, uploaded: RemoteImage, tmp_path: Path
) -> None:
    platform = cloud.connect(anti_affinity="soft")
    specs = [replace(make_spec(tmp_path, f"lab-{n}"), role="master") for n in range(1, 4)]
    with ThreadPoolExecutor(3) as pool:
        masters = list(pool.map(lambda spec: platform.create(spec, uploaded), specs))
    (group,) = cloud.nova.groups.values()
    assert (group["name"], group["policy"]) == ("kubekiln-lab-master", "soft-anti-affinity")
    assert set(group["members"]) == {one.id for one in masters}

    for master in masters:
        assert cloud.nova.groups
        platform.delete(master)

    assert cloud.nova.groups == {}


def test_a_machine_that_finds_no_host_says_so_and_is_removed_as_any_other(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec
) -> None:
    platform = cloud.connect()
    cloud.nova.fail_with = "No valid host was found."

    with pytest.raises(KubekilnError, match="No valid host was found") as raised:
        platform.create(spec, uploaded)

    assert not isinstance(raised.value, TransientError)
    (failed,) = platform.list_instances("lab")
    assert failed.state == "failed"
    platform.delete(failed)
    assert (cloud.nova.servers, cloud.neutron.ports) == ({}, {})


def test_an_address_that_is_taken_is_an_error_and_what_was_made_is_found(
    cloud: OpenStackRig, uploaded: RemoteImage, tmp_path: Path
) -> None:
    platform = cloud.connect()
    first = platform.create(make_spec(tmp_path, "lab-1"), uploaded)
    second = replace(make_spec(tmp_path, "lab-2"), addresses=("10.80.0.11",))

    with pytest.raises(KubekilnError, match="10.80.0.11 already allocated"):
        platform.create(second, uploaded)

    assert [one.id for one in platform.list_instances()] == [first.id]


def test_a_machine_that_was_stopped_is_started(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec
) -> None:
    platform = cloud.connect()
    made = platform.create(spec, uploaded)
    cloud.nova.servers[made.id]["status"] = "SHUTOFF"
    (stopped,) = platform.list_instances()
    assert stopped.state == "stopped"

    platform.start(stopped)

    assert platform.list_instances()[0].state == "running"
    assert "node=lab-lab-1" in (platform.read_console(made) or "")


def test_a_server_that_is_on_its_way_is_not_started_again(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a start whose answer was lost."""
    platform = cloud.connect()
    made = platform.create(spec, uploaded)
    server = cloud.nova.servers[made.id]
    server |= {"status": "SHUTOFF", "OS-EXT-STS:task_state": "powering-on"}

    platform.start(made)

    assert server["status"] == "SHUTOFF", "Nova goes on by itself"
    # The task begins between our look and our request.
    monkeypatch.setattr(Server, "task_state", None)
    with pytest.raises(TransientError, match="task_state powering-on"):
        platform.start(made)


@pytest.mark.parametrize("status", [404, 409])
def test_a_console_that_is_not_there_yet_is_empty(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec, status: int
) -> None:
    platform = cloud.connect()
    made = platform.create(spec, uploaded)
    cloud.nova.no_console = status

    assert platform.read_console(made) == ""


def test_a_server_that_ran_once_is_not_made_anew_for_an_error(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec
) -> None:
    platform = cloud.connect()
    made = platform.create(spec, uploaded)
    cloud.nova.servers[made.id] |= {
        "status": "ERROR", "OS-SRV-USG:launched_at": "2026-11-23T06:00:00.000000",
    }  # fmt: skip

    (found,) = platform.list_instances()

    assert found.state == "stopped"
    with pytest.raises(KubekilnError, match="is in state ERROR") as raised:
        platform.start(found)
    assert "reboot --hard" in str(raised.value.problems[0].hint)


def test_a_port_of_a_server_that_is_gone_is_removed(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec
) -> None:
    platform = cloud.connect()
    made = platform.create(spec, uploaded)
    # By Nova alone, while Neutron was away: the port still names its server.
    del cloud.nova.servers[made.id], cloud.nova.user_data[made.id]
    (left,) = platform.list_instances()
    assert left.state == "failed"

    platform.delete(left)

    assert platform.list_instances() == []
    assert cloud.neutron.ports == {}


def test_machines_of_others_are_none_of_our_business(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec
) -> None:
    platform = cloud.connect()
    made = platform.create(spec, uploaded)
    by_hand = {**cloud.nova.servers[made.id], "id": "by-hand", "metadata": {"made": "by hand"}}
    cloud.nova.servers["by-hand"] = by_hand
    port = {**next(iter(cloud.neutron.ports.values())), "device_id": ""}
    cloud.neutron.ports["without-tags"] = {**port, "id": "without-tags", "description": ""}
    foreign = {"project_id": "another", "id": "foreign"}
    cloud.neutron.ports["foreign"] = {**port, **foreign}

    assert [one.id for one in platform.list_instances()] == [made.id]
    platform.delete(made)

    assert platform.list_instances() == []
    assert list(cloud.nova.servers) == ["by-hand"]
    assert list(cloud.neutron.ports) == ["without-tags", "foreign"]
    cloud.nova.servers.clear()
    cloud.neutron.ports.clear()


def test_many_machines_are_made_side_by_side_and_listed_over_pages(
    cloud: OpenStackRig, uploaded: RemoteImage, tmp_path: Path
) -> None:
    platform = cloud.connect()
    specs = [make_spec(tmp_path, f"lab-{n}") for n in range(1, 13)]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda spec: platform.create(spec, uploaded), specs))

    assert {one.id for one in platform.list_instances("lab")} == {one.id for one in made}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(platform.delete, made))
    assert platform.list_instances() == []
