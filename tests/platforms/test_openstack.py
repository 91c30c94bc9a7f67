# SPDX-License-Identifier: Apache-2.0
"""Does `openstack` do what only it promises? (Real Keystone and Glance; Nova, Neutron: fakes.)"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from kubekiln.errors import IntegrityError, KubekilnError
from pipeline.targets.platform import DiskImage, InstanceSpec, RemoteImage, TransientError
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.openstack import OpenStackRig
from tests.platforms.rigs.rig import Rig
from tests.support.disks import make_image, raw_sha256

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["openstack"], indirect=True),
]
Images = tuple[DiskImage, DiskImage]


def ignore(_more: int) -> None: ...


@pytest.fixture
def cloud(rig: Rig) -> OpenStackRig:
    return cast("OpenStackRig", rig)


@pytest.fixture
def uploaded(cloud: OpenStackRig, images: Images) -> RemoteImage:
    return cloud.connect().upload(images[0], ignore)


def test_an_image_says_in_glance_what_it_is_and_which_machine_it_wants(
    cloud: OpenStackRig, images: Images
) -> None:
    remote = cloud.connect(hardware={"disk_bus": "scsi"}).upload(images[0], ignore)

    found = cloud.sdk.image.get_image(remote.id)
    assert (found.status, found.visibility, found.disk_format) == ("active", "private", "qcow2")
    assert (found.hw_disk_bus, found.hw_scsi_model) == ("scsi", "virtio-scsi")
    assert (found.min_disk, found.architecture) == (1, "x86_64")
    ours = {key: value for key, value in found.properties.items() if "kubekiln" in key}
    assert ours == {
        "kubekiln-image": images[0].digest,
        "kubekiln-sha256": images[0].sha256,
        "kubekiln-verified": f"sha512:{found.hash_value}",
    }
    assert found.properties["owner_specified.openstack.sha256"] == images[0].sha256


def test_what_an_upload_left_is_not_found_and_goes_with_the_next_one(
    cloud: OpenStackRig, images: Images
) -> None:
    image, platform, glance = images[0], cloud.connect(), cloud.sdk.image
    common: dict[str, Any] = {
        "name": image.remote_name,
        "disk_format": "raw",
        "container_format": "bare",
    }
    tags: dict[str, Any] = {"kubekiln-image": image.digest, "kubekiln-sha256": image.sha256}
    queued = glance.create_image(allow_duplicates=True, **common, **tags)
    unverified = glance.create_image(allow_duplicates=True, data=b"half", **common, **tags)
    changed = glance.create_image(
        allow_duplicates=True, data=bytes(image.size), **common,
        **{**tags, "kubekiln-verified": "sha512:0"},
    )  # fmt: skip
    by_hand = glance.create_image(allow_duplicates=True, data=b"mine", **common)
    assert platform.find_image(image) is None

    remote = platform.upload(image, ignore)

    left = {one.id for one in glance.images(name=image.remote_name)}
    assert left == {remote.id, by_hand.id}
    assert left.isdisjoint({queued.id, unverified.id, changed.id})
    glance.delete_image(by_hand.id)


def test_an_image_can_be_staged_and_imported(
    cloud: OpenStackRig, images: Images, tmp_path: Path
) -> None:
    image, done = images[0], list[int]()
    platform = cloud.connect(transfer="import")

    remote = platform.upload(image, done.append)

    assert platform.find_image(image) == remote
    assert cloud.disk_sha256(remote, tmp_path) == raw_sha256(image.path, "qcow2", tmp_path)
    assert sum(done) == image.size


def test_a_raw_image_stays_raw(cloud: OpenStackRig, images: Images, tmp_path: Path) -> None:
    image = make_image(tmp_path, "raw")
    platform = cloud.connect(format="raw")

    remote = platform.upload(image, ignore)

    assert cloud.sdk.image.get_image(remote.id).disk_format == "raw"
    assert platform.find_image(image) == remote
    platform.delete_image(remote)


def test_glance_is_not_asked_to_believe_a_wrong_format(cloud: OpenStackRig, images: Images) -> None:
    with pytest.raises(IntegrityError, match="is qcow2, not raw"):
        cloud.connect(format="raw").upload(replace(images[0], format="raw"), ignore)

    assert cloud.leftovers() == []


def test_bytes_that_change_on_their_way_are_noticed_and_not_kept(
    cloud: OpenStackRig, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.targets.openstack_images.Body.digest", lambda *_: "another")

    with pytest.raises(IntegrityError, match="is not what was sent: its sha512 is"):
        cloud.connect().upload(images[0], ignore)

    assert cloud.leftovers() == []


def test_an_upload_whose_glance_goes_away_leaves_nothing_once_it_is_back(
    cloud: OpenStackRig, images: Images
) -> None:
    platform = cloud.connect("door")  # type: ignore[arg-type]
    assert platform.find_image(images[0]) is None

    def close_the_door(_more: int) -> None:
        cloud.door.mode = "cut"

    try:
        with pytest.raises(TransientError):
            platform.upload(images[0], close_the_door)
    finally:
        cloud.door.mode = "open"

    assert platform.upload(images[0], ignore) == platform.find_image(images[0])
    assert len(list(cloud.sdk.image.images())) == 1


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


def test_machines_of_others_are_none_of_our_business(
    cloud: OpenStackRig, uploaded: RemoteImage, spec: InstanceSpec
) -> None:
    platform = cloud.connect()
    made = platform.create(spec, uploaded)
    foreign = {**cloud.nova.servers[made.id], "id": "by-hand", "metadata": {"made": "by hand"}}
    cloud.nova.servers["by-hand"] = foreign
    cloud.neutron.ports["p"] = {"id": "p", "name": "lab-lab-1", "description": "", "fixed_ips": [],
                                "network_id": "n", "device_id": ""}  # fmt: skip

    assert [one.id for one in platform.list_instances()] == [made.id]
    platform.delete(made)

    assert list(cloud.nova.servers) == ["by-hand"]
    assert list(cloud.neutron.ports) == ["p"]
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


def test_all_that_the_settings_name_and_the_cloud_lacks_is_said_at_once(
    cloud: OpenStackRig, images: Images
) -> None:
    platform = cloud.connect(
        flavor="huge",
        networks=[{"name": "no-such"}, {"name": "node", "security_groups": ["neither"]}],
    )

    said = [problem.what for problem in platform.problems()]

    assert said == ["no network 'no-such'", "no security group 'neither'", "no flavor 'huge'"]


def test_a_cloud_that_clouds_yaml_lacks_is_a_problem_with_a_hint(
    cloud: OpenStackRig, images: Images
) -> None:
    (problem,) = cloud.connect("elsewhere").problems()  # type: ignore[arg-type]

    assert "elsewhere" in problem.what
    assert "clouds.yaml" in (problem.hint or "")


@pytest.fixture(autouse=True)
def no_failure_is_left(cloud: OpenStackRig) -> Iterator[None]:
    yield
    cloud.nova.fail_with = ""
