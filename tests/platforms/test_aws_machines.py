# SPDX-License-Identifier: Apache-2.0
"""Is AWS asked for machines exactly as its documentation says, once for each?

moto believes much; so what is sent is caught before it leaves, after botocore has checked it by its
own model of the service.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ParamValidationError
from botocore.stub import Stubber

from kubekiln.errors import KubekilnError
from kubekiln.operations.delivery import Delivery
from kubekiln.paths import Project
from pipeline.targets.aws import AwsPlatform
from pipeline.targets.aws_calls import Api, AwsError, sdk_errors
from pipeline.targets.platform import DiskImage, InstanceSpec
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.aws import REGION, AwsRig, listen, quick
from tests.platforms.rigs.rig import upload

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(600)]


def test_a_machine_is_asked_for_with_all_that_it_needs_in_one_request(
    aws: AwsRig, raw_image: DiskImage, tmp_path: Path
) -> None:
    platform = aws.connect(
        source_dest_check=False, public_address=False, instance_profile="k8s-node",
        volume_iops=4000, kms_key="alias/k", tags={"team": "platform"},
    )  # fmt: skip
    spec = replace(make_spec(tmp_path, "lab-1"), cpus=2, memory_mib=8192, disk_gib=30)
    ami = upload(platform, raw_image)
    sent = listen(platform, "RunInstances", "ModifyInstanceAttribute")

    made = platform.create(spec, ami)

    request = sent[0][1]
    assert len(request.pop("ClientToken")) == 64
    (card,) = request.pop("NetworkInterfaces")
    assert (card.pop("SubnetId")[:7], card.pop("Groups")[0][:3]) == ("subnet-", "sg-")
    assert card == {
        "DeviceIndex": 0, "DeleteOnTermination": True, "AssociatePublicIpAddress": False,
        "PrivateIpAddress": "10.80.0.11",
    }  # fmt: skip
    tags = request.pop("TagSpecifications")
    assert [s["ResourceType"] for s in tags] == ["instance", "volume", "network-interface"]
    for specification in tags:
        assert {tag["Key"]: tag["Value"] for tag in specification["Tags"]} == {
            "team": "platform", "Name": "lab-lab-1", "kubekiln-cluster": "lab",
            "kubekiln-node": "lab-1", "kubekiln-payload": spec.payload,
        }  # fmt: skip
    assert request == {
        "ImageId": ami.id,
        "InstanceType": "m7i.large",
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": spec.user_data.reveal(),
        "IamInstanceProfile": {"Name": "k8s-node"},
        "MetadataOptions": {
            "HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1,
        },
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {
            "VolumeSize": 30, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True,
            "Iops": 4000, "KmsKeyId": "alias/k",
        }}],
    }  # fmt: skip
    off = {"InstanceId": made.id, "SourceDestCheck": {"Value": False}}
    assert sent[1] == ("ModifyInstanceAttribute", off)
    assert made.addresses == ("10.80.0.11",)


def test_one_that_still_drops_what_it_routes_is_made_anew(
    aws: AwsRig, raw_image: DiskImage, tmp_path: Path
) -> None:
    platform = aws.connect(source_dest_check=False)
    ami = upload(platform, raw_image)
    aws.tell(rules=[{"action": "ModifyInstanceAttribute", "how": "cut", "times": 1}])
    to = Delivery("cloud", platform, Project(tmp_path), 4, quick())

    (made,) = to.boot([make_spec(tmp_path, "lab-1")], ami)

    (listed,) = platform.list_instances("lab")
    assert (listed.id, listed.state) == (made.id, "running")


def test_the_same_machine_can_be_made_again_after_it_was_removed(
    aws: AwsRig, raw_image: DiskImage, tmp_path: Path
) -> None:
    platform, spec = aws.connect(), make_spec(tmp_path, "lab-1")
    ami = upload(platform, raw_image)
    sent = listen(platform, "RunInstances")
    first = platform.create(spec, ami)
    platform.delete(first)

    second = platform.create(spec, ami)

    assert second.id != first.id
    assert platform.create(spec, ami).id == second.id, "asked again it is the same"
    tokens = [params["ClientToken"] for _, params in sent]
    assert len(set(tokens)) == 2, "one of each generation, the same for the same"


def test_what_a_machine_left_is_found_and_removed(
    aws: AwsRig, raw_image: DiskImage, tmp_path: Path
) -> None:
    platform, ec2 = aws.connect(), aws.admin("ec2")
    made = platform.create(make_spec(tmp_path, "lab-1"), upload(platform, raw_image))
    tags = [{"ResourceType": "volume", "Tags": [
        {"Key": f"kubekiln-{key}", "Value": value}
        for key, value in (("cluster", "lab"), ("node", "lab-1"), ("payload", made.payload))
    ]}]  # fmt: skip
    ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=tags)
    assert [i.id for i in platform.list_instances("lab")] == [made.id], "a node that is there"

    platform.delete(made)
    (left,) = platform.list_instances("lab")
    platform.delete(left)

    assert (left.state, left.node, left.id[:4]) == ("failed", "lab-1", "vol-")
    assert platform.list_instances() == []


def test_a_volume_that_was_detached_stays_until_destroy(
    aws: AwsRig, raw_image: DiskImage, tmp_path: Path
) -> None:
    ec2, to = aws.admin("ec2"), Delivery("cloud", aws.connect(), Project(tmp_path), 1, quick())
    spec, ami = replace(make_spec(tmp_path, "lab-1"), etcd_disk_gib=2), to.upload(raw_image)
    (made,) = to.boot([spec], ami)
    of_etcd = [{"Name": "size", "Values": ["2"]}]
    (volume,) = (v["VolumeId"] for v in ec2.describe_volumes(Filters=of_etcd)["Volumes"])
    ec2.detach_volume(VolumeId=volume, InstanceId=made.id)
    aws.connect().delete(made)
    # A card that is left as well.
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    tags = [{"Key": key, "Value": value} for key, value in spec.tags.items()]
    card = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.create_tags(Resources=[card], Tags=tags)

    with pytest.raises(KubekilnError, match=f"of lab-1 only a disk is left.*: {volume}"):
        to.boot([spec], ami)

    assert [v["VolumeId"] for v in ec2.describe_volumes(VolumeIds=[volume])["Volumes"]] == [volume]
    # As docs/etcd-disk.md says how to keep it.
    ec2.delete_tags(Resources=[volume], Tags=[{"Key": key} for key in spec.tags])
    to.boot([spec], ami)
    to.destroy("lab")
    assert ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
    ec2.create_tags(Resources=[volume], Tags=tags)
    assert to.destroy("lab") == ["lab-1"]
    assert ec2.describe_volumes(Filters=of_etcd)["Volumes"] == []


def test_a_machine_that_ends_at_once_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = {"Reservations": [{"Instances": [{
        "InstanceId": "i-1", "State": {"Name": "terminated"},
        "StateReason": {"Message": "Client.InternalError: Client error on launch"},
    }]}]}  # fmt: skip
    client = stubbed_client("ec2")
    with Stubber(client) as stub:
        for _ in range(2):
            stub.add_response("describe_instances", ended, {"InstanceIds": ["i-1"]})
        platform = AwsPlatform.__new__(AwsPlatform)
        monkeypatch.setattr(AwsPlatform, "_ec2", Api(client))

        with pytest.raises(AwsError, match="Client error on launch") as raised:
            platform._wait_running("i-1")

    assert "kms_key" in (raised.value.problems[0].hint or "")


def test_what_botocore_refuses_is_an_error_that_quotes_no_user_data() -> None:
    client = stubbed_client("ec2")
    with pytest.raises(ParamValidationError, match="secret-in-user-data"):
        client.run_instances(MinCount=1, MaxCount=1, SubnetId={"oh": "secret-in-user-data"})

    with pytest.raises(AwsError) as raised, sdk_errors("ec2 run_instances"):
        client.run_instances(MinCount=1, MaxCount=1, SubnetId={"oh": "secret-in-user-data"})

    assert "secret-in-user-data" not in str(raised.value)


def stubbed_client(service: str) -> Any:
    return boto3.client(
        service, region_name=REGION, aws_access_key_id="a", aws_secret_access_key="b"  # type: ignore[call-overload]
    )  # fmt: skip


def numbered(directory: Path, count: int) -> list[InstanceSpec]:
    first = make_spec(directory, "lab-1")
    return [
        replace(first, node=f"n-{i:03}", addresses=(f"10.80.1.{i + 10}",)) for i in range(count)
    ]


def test_200_machines_with_lost_answers_are_all_there_none_twice_none_left(
    aws: AwsRig, raw_image: DiskImage, tmp_path: Path
) -> None:
    """5 % of all requests go wrong: half of those after the work was done, and no token helps."""
    platform = aws.connect(upload_threads=4, parallel=16)
    to = Delivery("cloud", platform, Project(tmp_path), 16, quick())
    ami, wanted = to.upload(raw_image), numbered(tmp_path, 200)
    before, ever = aws.leftovers(), len(all_machines(aws))
    aws.tell(rules=[{"how": "lose lose cut refuse", "share": 0.05}], tokens=False, seed=5)

    made = to.boot(wanted, ami)

    asked = aws.tell()
    machines = all_machines(aws)[ever:]
    assert sorted(i.node for i in made) == [s.node for s in wanted]
    assert sorted(node for node, state in machines if state == "running") == [
        s.node for s in wanted
    ]
    assert len(machines) == 200, "none was made twice, not even for a moment"
    assert asked["troubled"]["RunInstances lose"] > 0, (
        "answers were lost of machines that were made"
    )

    removed = to.destroy("lab")

    troubled = aws.tell()["troubled"]
    aws.tell(rules=[])
    assert sorted(removed) == [s.node for s in wanted]
    assert aws.leftovers() == before
    assert not (tmp_path / "state/lab/target-cloud.journal").exists()
    assert troubled["TerminateInstances lose"] > 0
    assert sum(troubled.values()) > 25, troubled


def all_machines(aws: AwsRig) -> list[tuple[str, str]]:
    """List node and state of every machine there ever was, in the order of their making."""
    pages = aws.admin("ec2").get_paginator("describe_instances").paginate()
    return [
        ({t["Key"]: t["Value"] for t in i["Tags"]}["kubekiln-node"], i["State"]["Name"])
        for page in pages
        for r in page["Reservations"]
        for i in r["Instances"]
    ]
