# SPDX-License-Identifier: Apache-2.0
"""What is asked of AWS, and read of its answers, without asking anybody?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from kubekiln.config import load_model
from kubekiln.errors import ConfigError, KubekilnError
from pipeline.targets.aws import AwsPlatform
from pipeline.targets.aws_images import ami_name, register_request
from pipeline.targets.aws_machines import (
    Network,
    client_token,
    instance_of,
    instance_type_for,
    refusals,
    run_request,
    types_of,
)
from pipeline.targets.aws_settings import Settings
from pipeline.targets.platform import DiskImage, Instance, InstanceSpec, RemoteImage

NETWORK = Network("subnet-1", "eu-central-1a", (ip_network("10.80.0.0/24"),), ("sg-1",))
AMI = RemoteImage("ami-1", "kubekiln-debian-13")
IMAGE = DiskImage("debian-13", "ab" * 32, Path("/disk"), "raw", "cd" * 32, 8 << 30)


def settings(**more: Any) -> Settings:
    return Settings.model_validate({"type": "aws", "subnet": "subnet-1", **more})


@pytest.fixture
def spec(tmp_path: Path) -> InstanceSpec:
    for name in ("user-data", "meta-data", "network-config"):
        (tmp_path / name).write_text("#cloud-config\n")
    return InstanceSpec(
        cluster="lab", node="lab-1", role="worker", seed_dir=tmp_path,
        seed_iso=tmp_path / "seed.iso", payload="p1", macs=("52:54:00:aa:bb:01",),
        addresses=("10.80.0.11",), cpus=2, memory_mib=4096, disk_gib=20,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cpus", "memory_mib", "architecture", "kind"),
    [
        (1, 512, "x86_64", "t3.micro"),
        (2, 2048, "x86_64", "t3.small"),
        (2, 4096, "x86_64", "c7i.large"),
        (2, 8192, "x86_64", "m7i.large"),
        (4, 8192, "arm64", "c7g.xlarge"),
        (2, 16384, "arm64", "r7g.large"),
        (64, 524288, "x86_64", "r7i.16xlarge"),
    ],
)
def test_the_smallest_type_is_chosen_that_has_what_a_node_needs(
    cpus: int, memory_mib: int, architecture: str, kind: str
) -> None:
    assert instance_type_for(cpus, memory_mib, architecture) == kind


def test_no_type_of_the_table_comes_after_a_larger_one() -> None:
    for architecture in ("x86_64", "arm64"):
        listed = list(types_of(architecture))
        assert len(listed) > 20
        for (_, cpus, memory), (_, next_cpus, next_memory) in zip(listed, listed[1:], strict=False):
            assert next_cpus >= cpus
            assert next_cpus > cpus or next_memory > memory


def test_a_node_that_no_type_is_large_enough_for_is_an_error_with_a_hint() -> None:
    with pytest.raises(KubekilnError, match="no instance type of our table has 500 CPUs") as raised:
        instance_type_for(500, 1024, "x86_64")

    assert "instance_type" in (raised.value.problems[0].hint or "")


def test_all_that_ec2_cannot_do_is_said_at_once(spec: InstanceSpec) -> None:
    odd = replace(spec, macs=("a", "b"), addresses=("10.99.0.11",), cpus=500)

    said = [problem.what for problem in refusals(odd, IMAGE, NETWORK, settings())]

    assert said == [
        "lab-1 has 2 network cards, the target gives it 1",
        f"no instance type of our table has 500 CPUs and {spec.memory_mib} MiB",
        "lab-1's address 10.99.0.11 is none that subnet-1 (10.80.0.0/24) can give",
    ]
    assert list(refusals(spec, IMAGE, NETWORK, settings())) == []
    elsewhere = replace(spec, addresses=("10.99.0.11",))
    wanted = settings(keep_addresses=False, instance_type="u-24tb1.metal")
    assert list(refusals(replace(elsewhere, cpus=448), IMAGE, NETWORK, wanted)) == []


@pytest.mark.parametrize(
    ("address", "wrong"),
    [("10.80.0.3", 1), ("10.80.0.4", 0), ("10.80.0.254", 0), ("10.80.0.255", 1)],
)
def test_addresses_that_aws_keeps_are_refused(spec: InstanceSpec, address: str, wrong: int) -> None:
    found = refusals(replace(spec, addresses=(address,)), IMAGE, NETWORK, settings())

    assert len(list(found)) == wrong


def test_both_families_of_addresses_are_asked_for(spec: InstanceSpec) -> None:
    dual = replace(spec, addresses=("10.80.0.11", "fd00::11"))

    (card,) = run_request(dual, AMI, NETWORK, settings(), "m7i.large")["NetworkInterfaces"]
    assert card["PrivateIpAddress"] == "10.80.0.11"
    assert card["Ipv6Addresses"] == [{"Ipv6Address": "fd00::11"}]

    free = settings(keep_addresses=False)
    (card,) = run_request(dual, AMI, NETWORK, free, "m7i.large")["NetworkInterfaces"]
    assert {"PrivateIpAddress", "Ipv6Addresses", "AssociatePublicIpAddress"} & card.keys() == set()


def test_a_token_is_that_of_the_request_and_of_its_generation(spec: InstanceSpec) -> None:
    def request(**more: Any) -> dict[str, Any]:
        return run_request(replace(spec, **more), AMI, NETWORK, settings(), "m7i.large")

    tokens = {
        client_token(request(), 0), client_token(request(), 1),
        client_token(request(payload="p2"), 0), client_token(request(node="lab-2"), 0),
    }  # fmt: skip

    assert len(tokens) == 4
    assert all(len(token) <= 64 and token.isascii() for token in tokens)
    assert client_token(request(), 0) in tokens


def test_a_profile_is_given_by_name_or_by_arn(spec: InstanceSpec) -> None:
    arn = "arn:aws:iam::123456789012:instance-profile/k8s-node"
    for given, said in (("k8s-node", {"Name": "k8s-node"}), (arn, {"Arn": arn})):
        chosen = settings(instance_profile=given)
        request = run_request(spec, AMI, NETWORK, chosen, "m7i.large")
        assert request["IamInstanceProfile"] == said


@pytest.mark.parametrize(
    ("name", "check", "wants_check", "state"),
    [
        ("pending", True, True, "starting"),
        ("pending", True, False, "starting"),
        ("running", True, True, "running"),
        ("running", False, False, "running"),
        # In use, maybe: `start` turns its check off.
        ("running", True, False, "stopped"),
        ("stopped", True, False, "stopped"),
        ("stopping", True, True, "stopped"),
        ("stopped", True, True, "stopped"),
        ("shutting-down", True, True, "failed"),
    ],
)
def test_what_ec2_calls_a_state_is_one_of_ours(
    name: str, check: bool, wants_check: bool, state: str
) -> None:
    found = {
        "InstanceId": "i-1", "InstanceType": "m7i.large", "State": {"Name": name},
        "SourceDestCheck": check, "PrivateIpAddress": "10.80.0.11",
        "NetworkInterfaces": [{"Ipv6Addresses": [{"Ipv6Address": "fd00::11"}]}],
        "Tags": [{"Key": f"kubekiln-{key}", "Value": value}
                 for key, value in (("cluster", "lab"), ("node", "lab-1"), ("payload", "p1"))],
    }  # fmt: skip

    instance = instance_of(found, wants_check=wants_check)

    assert (instance.id, instance.cluster, instance.node) == ("i-1", "lab", "lab-1")
    assert (instance.state, instance.payload) == (state, "p1")
    assert instance.addresses == ("10.80.0.11", "fd00::11")


def test_a_small_volume_gets_as_many_iops_as_its_size_allows(spec: InstanceSpec) -> None:
    small = replace(spec, disk_gib=20, etcd_disk_gib=8)
    wanted = settings(volume_iops=6000, volume_throughput=250)

    request = run_request(small, AMI, NETWORK, wanted, "m7i.large")

    root, etcd = (mapping["Ebs"] for mapping in request["BlockDeviceMappings"])
    assert (root["VolumeSize"], root["Iops"]) == (20, 6000)
    assert (etcd["VolumeSize"], etcd["Iops"], etcd["Throughput"]) == (8, 4000, 250)
    assert request["BlockDeviceMappings"][1]["DeviceName"] == "/dev/sdf"


def test_a_volume_gets_as_much_throughput_as_its_iops_allow(spec: InstanceSpec) -> None:
    small = replace(spec, disk_gib=20, etcd_disk_gib=6)

    request = run_request(
        small, AMI, NETWORK, settings(volume_iops=8000, volume_throughput=2000), "m7i.large"
    )

    root, etcd = (mapping["Ebs"] for mapping in request["BlockDeviceMappings"])
    assert (root["Iops"], root["Throughput"]) == (8000, 2000)
    assert (etcd["Iops"], etcd["Throughput"]) == (3000, 750)
    (plain,) = run_request(
        replace(small, etcd_disk_gib=None), AMI, NETWORK, settings(volume_throughput=750), "t3.x"
    )["BlockDeviceMappings"]
    assert "Iops" not in plain["Ebs"]
    assert plain["Ebs"]["Throughput"] == 750


class PendingEc2:
    """Lists one machine, in the state that a filter asks for; waits for nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, action: str, **_arguments: Any) -> dict[str, Any]:
        self.asked.append(action)
        return {"Images": [{"Architecture": "x86_64"}]}

    def pages(self, action: str, _key: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        self.asked.append(action)
        names = {one["Name"]: one["Values"] for one in arguments["Filters"]}
        assert names["instance-state-name"] == ["pending"]
        assert names["tag:kubekiln-payload"] == ["p1"]
        yield {"Instances": [{"InstanceId": "i-1", "InstanceType": "m7i.large"}]}

    def wait(self, condition: str, **arguments: Any) -> None:
        self.asked.append(f"{condition} {arguments['InstanceIds']}")


def test_a_machine_that_is_being_made_is_waited_for_whatever_its_token_was(
    spec: InstanceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2 = PendingEc2()
    monkeypatch.setattr(AwsPlatform, "_ec2", ec2)
    monkeypatch.setattr(AwsPlatform, "_network", NETWORK)

    made = AwsPlatform(settings()).create(spec, AMI)

    assert (made.id, made.state, made.detail) == ("i-1", "running", "m7i.large")
    assert "run_instances" not in ec2.asked
    assert ec2.asked[-1] == "instance_running ['i-1']"


def test_what_a_machine_left_has_no_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AwsPlatform, "_ec2", PendingEc2())

    for left in ("vol-1", "eni-1"):
        instance = Instance(left, "lab", "lab-1", "p1", "failed")
        assert AwsPlatform(settings()).read_console(instance) is None


def test_arm_images_boot_by_uefi_alone(tmp_path: Path) -> None:
    image = DiskImage("debian-13", "d" * 64, tmp_path / "x", "raw", "5" * 64, 1, "arm64")

    request = register_request(image, "snap-1", {})

    assert (request["Architecture"], request["BootMode"]) == ("arm64", "uefi")
    assert request["Name"] == ami_name(image) == "kubekiln-debian-13-dddddddddddd-55555555"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("tags: {kubekiln-node: x}", "tag 'kubekiln-node' is not yours to set"),
        ("tags: {Name: x}", "tag 'Name' is not yours to set"),
        ("encrypted: false\nkms_key: alias/k", "kms_key without encryption"),
        ("volume_type: io2", "io2 has no IOPS of its own"),
        ("volume_type: gp2\nvolume_iops: 3000", "gp2's IOPS come from its size"),
        ("volume_type: gp2\nvolume_throughput: 250", "only gp3 has a throughput to set"),
        ("volume_iops: 2999", "gp3 has 3000 IOPS at least, not 2999"),
        ("volume_throughput: 751", "751 MiB/s need 3004 IOPS, there are 3000"),
        ("volume_iops: 4000\nvolume_throughput: 1001", "1001 MiB/s need 4004 IOPS"),
        ("secret_access_key: x", "unknown key 'secret_access_key'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, more: str, what: str) -> None:
    path = tmp_path / "cloud.yaml"
    path.write_text(f"type: aws\nsubnet: subnet-1\n{more}\n")

    with pytest.raises(ConfigError, match=what):
        load_model(Settings, path)


def test_the_documented_policy_is_json() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "platforms" / "aws.md"
    policy = json.loads(page.read_text().split("```json\n")[1].split("```")[0])

    assert "ec2:RunInstances" in policy["Statement"][0]["Action"]
