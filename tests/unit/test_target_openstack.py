# SPDX-License-Identifier: Apache-2.0
"""Is OpenStack asked for what a node and an image are?"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openstack.image.v2.image import Image
from pydantic import ValidationError

from kubekiln.errors import KubekilnError, Problem
from kubekiln.files import sha256_file
from pipeline.targets.openstack_images import Body, is_stored, properties
from pipeline.targets.openstack_request import (
    Flavor,
    choose_flavor,
    group_request,
    port_requests,
    read_tags,
    refusals,
    server_request,
    tags_text,
)
from pipeline.targets.openstack_settings import Settings
from pipeline.targets.platform import DiskImage, InstanceSpec, RemoteImage

MIB = 1 << 20
SMALL, LARGE = Flavor("1", "small", 2, 4096, 20), Flavor("2", "large", 8, 16384, 160)
SECOND_CARD = b"""
version: 2
ethernets:
  eth0: {match: {macaddress: "52:54:00:00:00:01"}, addresses: [10.80.0.11/24]}
  eth1: {match: {macaddress: "52:54:00:00:90:11"}, addresses: [10.90.0.11/24]}
  eth2: {match: {macaddress: "52:54:00:00:91:11"}, dhcp4: true}
"""


def make_settings(**given: Any) -> Settings:
    fields = {"type": "openstack", "networks": [{"name": "node"}], **given}
    return Settings.model_validate(fields)


def make_spec(directory: Path, **given: Any) -> InstanceSpec:
    (directory / "user-data").write_bytes(given.pop("user_data", b"#cloud-config\n"))
    (directory / "meta-data").write_bytes(b"instance-id: lab-1\n")
    (directory / "network-config").write_bytes(given.pop("network_config", b"version: 2\n"))
    spec = InstanceSpec(
        cluster="lab", node="lab-1", role="master", seed_dir=directory,
        seed_iso=directory / "seed.iso", payload="0123456789abcdef", macs=("52:54:00:00:00:01",),
        addresses=("10.80.0.11", "fd00:80::11"), cpus=2, memory_mib=3072, disk_gib=20,
    )  # fmt: skip
    return replace(spec, **given)


def refused(directory: Path, **given: Any) -> list[Problem]:
    image = make_image(directory / "disk", b"a disk")
    return list(refusals(make_spec(directory, **given), image, make_settings(), [LARGE, SMALL]))


def make_image(path: Path, content: bytes, **given: Any) -> DiskImage:
    path.write_bytes(content)
    image = DiskImage(
        name="debian-13", digest="ab" * 32, path=path, format="raw", sha256=sha256_file(path),
        virtual_size=len(content),
    )  # fmt: skip
    return replace(image, **given)


@pytest.mark.parametrize(
    ("status", "task", "stored"),
    [("active", None, True), ("active", "task-1", False), ("importing", "task-1", False)],
)
def test_an_image_is_stored_once_its_import_has_ended(
    status: str, task: str | None, stored: bool
) -> None:
    given = {"os_glance_import_task": task} if task else {}

    assert is_stored(Image.new(status=status, **given)) is stored


def test_user_data_that_nova_would_refuse_is_refused_before_anything_is_made(
    tmp_path: Path,
) -> None:
    noise = random.Random(1).randbytes(60_000)

    (found,) = refused(tmp_path, user_data=noise)

    assert "lab-1: user-data.gz.b64 is 80,0" in found.what
    assert "takes 65,535" in found.what
    assert "pki.algorithm" in str(found.hint)


def test_a_port_has_the_nodes_mac_and_addresses_and_its_tags(tmp_path: Path) -> None:
    spec, settings = make_spec(tmp_path), make_settings()

    (port,) = port_requests(spec, [(settings.networks[0], "net-1", ["group-1"])])

    assert port == {
        "name": "lab-lab-1",
        "network_id": "net-1",
        "mac_address": "52:54:00:00:00:01",
        "fixed_ips": [{"ip_address": "10.80.0.11"}, {"ip_address": "fd00:80::11"}],
        "description": "kubekiln-cluster=lab kubekiln-node=lab-1 kubekiln-payload=0123456789abcdef",
        "security_group_ids": ["group-1"],
    }


def test_further_cards_get_the_addresses_that_were_rendered(tmp_path: Path) -> None:
    macs = ("52:54:00:00:00:01", "52:54:00:00:90:11", "52:54:00:00:91:11")
    spec = make_spec(tmp_path, network_config=SECOND_CARD, macs=macs)
    networks = make_settings(networks=[{"name": name} for name in ("a", "b", "c", "d")]).networks

    ports = port_requests(spec, [(one, one.name, []) for one in networks])

    assert [port["network_id"] for port in ports] == ["a", "b", "c"]
    assert ports[1]["fixed_ips"] == [{"ip_address": "10.90.0.11"}]
    assert "fixed_ips" not in ports[2]


@pytest.mark.parametrize(
    ("network", "wanted"),
    [
        ({"fixed_addresses": False}, {"fixed_ips": None}),
        ({"port_security": False}, {"is_port_security_enabled": False, "security_group_ids": []}),
        (
            {"allowed_addresses": ["10.244.0.0/16", "10.80.0.10/32"]},
            {"allowed_address_pairs": [{"ip_address": "10.244.0.0/16"},
                                       {"ip_address": "10.80.0.10/32"}]},
        ),
    ],
    ids=["leased", "without-port-security", "pods-and-vip"],
)  # fmt: skip
def test_a_port_is_as_its_network_says(
    tmp_path: Path, network: dict[str, Any], wanted: dict[str, Any]
) -> None:
    settings = make_settings(networks=[{"name": "node", **network}])

    (port,) = port_requests(make_spec(tmp_path), [(settings.networks[0], "net-1", [])])

    assert {key: port.get(key) for key in wanted} == wanted


def test_a_card_without_a_network_is_refused(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, macs=("52:54:00:00:00:01", "52:54:00:00:90:11"))

    assert found.what == "lab-1 has 2 network cards, the target gives it 1"


def test_a_size_that_no_flavor_has_is_refused(tmp_path: Path) -> None:
    (found,) = refused(tmp_path, cpus=64)

    assert "no flavor has what lab-1 wants: 64 CPUs" in found.what


@pytest.mark.parametrize(
    ("given", "count"), [({}, 1), ({"flavor": "large"}, 0), ({"boot_from": "volume"}, 1)]
)
def test_a_disk_smaller_than_the_image_is_refused_if_it_is_what_the_node_gets(
    tmp_path: Path, given: dict[str, Any], count: int
) -> None:
    spec, image = make_spec(tmp_path, disk_gib=0), make_image(tmp_path / "disk", b"x")

    found = list(refusals(spec, image, make_settings(**given), [LARGE, SMALL]))

    assert len(found) == count


def test_tags_come_back_from_a_description_and_nothing_else_does(tmp_path: Path) -> None:
    tags = make_spec(tmp_path).tags

    assert read_tags(tags_text(tags)) == tags
    assert read_tags("made=by hand") == {}


@pytest.mark.parametrize(
    ("given", "asked", "chosen"),
    [
        ({}, {}, SMALL),
        ({}, {"cpus": 4}, LARGE),
        ({}, {"disk_gib": 40}, LARGE),
        ({"boot_from": "volume"}, {"disk_gib": 40}, SMALL),
        ({"flavor": "large"}, {}, LARGE),
        ({"flavor": "2"}, {"cpus": 64}, LARGE),
    ],
    ids=["smallest", "cpus", "disk", "volume", "by-name", "by-id"],
)
def test_the_flavor_is_the_named_or_the_smallest_that_is_enough(
    tmp_path: Path, given: dict[str, Any], asked: dict[str, Any], chosen: Flavor
) -> None:
    spec = make_spec(tmp_path, **asked)

    assert choose_flavor([LARGE, SMALL], spec, make_settings(**given)) == chosen


@pytest.mark.parametrize(
    ("given", "asked", "says"),
    [
        ({"flavor": "huge"}, {}, "no flavor 'huge'"),
        ({}, {"memory_mib": 99_999}, "99999 MiB"),
    ],
)
def test_no_flavor_is_an_error_that_says_what_was_wanted(
    tmp_path: Path, given: dict[str, Any], asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(KubekilnError, match=says) as raised:
        choose_flavor([LARGE, SMALL], make_spec(tmp_path, **asked), make_settings(**given))

    assert raised.value.problems[0].hint


def test_a_boot_volume_goes_with_its_machine(tmp_path: Path) -> None:
    settings = make_settings(boot_from="volume", volume_type="ssd", availability_zone="az-2")

    wanted = server_request(
        make_spec(tmp_path), RemoteImage("image-1", "debian"), settings,
        flavor_id="1", port_ids=["port-1"], group_id="group-1",
    )  # fmt: skip

    (volume,) = wanted["block_device_mapping"]
    assert volume["delete_on_termination"] is True
    assert (volume["volume_size"], volume["volume_type"], volume["uuid"]) == (20, "ssd", "image-1")
    assert "image_id" not in wanted
    assert wanted["scheduler_hints"] == {"group": "group-1"}
    assert wanted["availability_zone"] == "az-2"


@pytest.mark.parametrize(
    ("given", "role", "policy"),
    [
        ("none", "master", None), ("soft", "master", "soft-anti-affinity"),
        ("hard", "etcd", "anti-affinity"), ("hard", "worker", None),
    ],
)  # fmt: skip
def test_masters_are_kept_apart_if_that_is_asked_for(
    tmp_path: Path, given: str, role: str, policy: str | None
) -> None:
    wanted = group_request(make_spec(tmp_path, role=role), make_settings(anti_affinity=given))

    assert (wanted or {}).get("policy") == policy


def test_an_image_says_which_machine_it_wants(tmp_path: Path) -> None:
    hardware = {"disk_bus": "scsi", "firmware": "uefi", "machine_type": "q35",
                "properties": {"hw_vif_model": "e1000e", "os_distro": "debian"}}  # fmt: skip
    image = make_image(tmp_path / "disk.raw", bytes(1024), virtual_size=(3 << 30) + 1)

    found = properties(image, make_settings(hardware=hardware))

    assert found["min_disk"] == 4
    assert found["visibility"] == "private"
    assert found["owner_specified.openstack.sha256"] == image.sha256
    assert (found["hw_disk_bus"], found["hw_scsi_model"]) == ("scsi", "virtio-scsi")
    assert found["hw_cdrom_bus"] == "scsi", "no SATA in Debian's cloud kernel"
    assert (found["hw_firmware_type"], found["hw_machine_type"]) == ("uefi", "q35")
    assert (found["hw_rng_model"], found["architecture"]) == ("virtio", "x86_64")
    assert (found["hw_vif_model"], found["os_distro"]) == ("e1000e", "debian")


def test_a_body_that_is_sent_again_counts_and_hashes_once(tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk.raw", random.Random(1).randbytes(3 * MIB))
    done: list[int] = []
    body = Body(image, done.append)

    next(part := iter(body)), next(part)
    sent = b"".join(body)

    assert sum(done) == len(body) == len(sent) == image.size
    assert body.digest("sha256") == image.sha256
    assert body.digest("sha512") == hashlib.sha512(sent).hexdigest()
    assert body.digest("no-such") is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"networks": []}, "networks"),
        ({"networks": [{"name": "a", "port_security": False, "security_groups": ["b"]}]},
         "has no port security to allow anything"),
        ({"password": "secret"}, "password"),
    ],
    ids=["no-network", "no-port-security", "credentials"],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        make_settings(**given)
