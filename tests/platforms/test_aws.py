# SPDX-License-Identifier: Apache-2.0
"""Is AWS asked for exactly what its documentation says, and does an upload go on where it ended?

moto believes much; so what is sent is caught before it leaves, after botocore has checked it by its
own model of the service.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ParamValidationError
from botocore.stub import Stubber

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.operations.delivery import Delivery
from kubekiln.operations.retrying import Patience
from kubekiln.paths import Project
from pipeline.targets.aws import AwsPlatform
from pipeline.targets.aws_blocks import BLOCK
from pipeline.targets.aws_calls import Api, AwsError, sdk_errors
from pipeline.targets.platform import DiskImage, InstanceSpec
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.aws import REGION, AwsRig
from tests.support.disks import make_image

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(600)]

Sent = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def aws() -> Iterator[AwsRig]:
    with AwsRig() as rig:
        yield rig


@pytest.fixture
def rig(aws: AwsRig) -> Iterator[AwsRig]:
    aws.tell(rules=[])
    yield aws
    aws.tell(rules=[])
    platform = aws.connect()
    for instance in platform.list_instances():
        platform.delete(instance)
    ec2 = aws.admin("ec2")
    tagged = [{"Name": "tag-key", "Values": ["kubekiln-image"]}]
    for ami in ec2.describe_images(Owners=["self"], Filters=tagged)["Images"]:
        ec2.deregister_image(ImageId=ami["ImageId"])
    for snapshot in ec2.describe_snapshots(Filters=tagged)["Snapshots"]:
        ec2.delete_snapshot(SnapshotId=snapshot["SnapshotId"])
    assert aws.leftovers() == []


@pytest.fixture
def image(tmp_path: Path) -> DiskImage:
    return make_image(tmp_path, "raw", size_mib=8)


def listen(platform: AwsPlatform, *actions: str) -> Sent:
    """Keep what the platform sends, as botocore's model of the service has it."""
    sent: Sent = []
    for service, attempts in (("ec2", 1), ("ebs", 1), ("ebs", 4)):
        client = platform._connection.api(service, attempts=attempts)._client

        def keep(params: dict[str, Any], model: Any, **_: Any) -> None:
            if model.name in actions:
                sent.append((model.name, dict(params)))

        client.meta.events.register("provide-client-params.*.*", keep)
    return sent


def upload(platform: AwsPlatform, image: DiskImage) -> Any:
    return platform.upload(image, lambda _n: None)


def test_a_snapshot_is_put_as_ebs_wants_it_and_zeros_are_not(rig: AwsRig, image: DiskImage) -> None:
    platform = rig.connect(tags={"team": "platform"})
    sent = listen(platform, "StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot")

    ami = upload(platform, image)

    raw = image.path.read_bytes()
    blocks = {i: raw[i * BLOCK : (i + 1) * BLOCK] for i in range(len(raw) // BLOCK)}
    wanted = {i: block for i, block in blocks.items() if any(block)}
    assert 0 < len(wanted) < len(blocks)
    start = next(params for name, params in sent if name == "StartSnapshot")
    assert (start["VolumeSize"], start["Timeout"]) == (1, 24 * 60)
    tags = {tag["Key"]: tag["Value"] for tag in start["Tags"]}
    assert tags == {
        "team": "platform", "Name": ami.name, "kubekiln-name": ami.name,
        "kubekiln-image": image.sha256, "kubekiln-upload": start["ClientToken"],
    }  # fmt: skip
    put = {p["BlockIndex"]: p for name, p in sent if name == "PutSnapshotBlock"}
    assert put.keys() == wanted.keys()
    sums = {index: hashlib.sha256(block).digest() for index, block in wanted.items()}
    for index, params in put.items():
        assert params["BlockData"] == wanted[index]
        assert params["Checksum"] == base64.b64encode(sums[index]).decode()
        assert (params["DataLength"], params["ChecksumAlgorithm"]) == (BLOCK, "SHA256")
    whole = hashlib.sha256(b"".join(sums[index] for index in sorted(sums))).digest()
    assert sent[-1] == ("CompleteSnapshot", {
        "SnapshotId": rig.snapshot_of(ami),
        "ChangedBlocksCount": len(wanted),
        "Checksum": base64.b64encode(whole).decode(),
        "ChecksumAlgorithm": "SHA256",
        "ChecksumAggregationMethod": "LINEAR",
    })  # fmt: skip
    assert list(image.path.parent.glob(".*aws-upload")) == [], "the journal is gone"


def test_a_disk_that_ends_within_a_block_is_filled_up_with_zeros(
    rig: AwsRig, tmp_path: Path
) -> None:
    path = tmp_path / "odd.raw"
    path.write_bytes(b"x" * (BLOCK + 100))
    odd = DiskImage("odd", "d" * 64, path, "raw", "e" * 64, BLOCK + 100)

    blocks = rig.blocks(rig.snapshot_of(upload(rig.connect(), odd)))

    assert blocks == {0: b"x" * BLOCK, 1: (b"x" * 100).ljust(BLOCK, b"\0")}


def test_an_image_is_registered_to_boot_by_uefi_and_to_keep_to_imds_v2(
    rig: AwsRig, image: DiskImage
) -> None:
    platform = rig.connect()
    sent = listen(platform, "RegisterImage")

    ami = upload(platform, image)

    (request,) = [params for _, params in sent]
    tags = request.pop("TagSpecifications")
    assert request == {
        "Name": ami.name,
        "Description": f"kubekiln image test, {image.digest}",
        "Architecture": "x86_64",
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {
            "SnapshotId": rig.snapshot_of(ami), "VolumeType": "gp3", "DeleteOnTermination": True,
        }}],
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "SriovNetSupport": "simple",
        "BootMode": "uefi-preferred",
        "ImdsSupport": "v2.0",
    }  # fmt: skip
    assert [spec["ResourceType"] for spec in tags] == ["image"]


def test_an_upload_that_was_cut_off_goes_on_and_puts_no_block_twice(
    rig: AwsRig, image: DiskImage
) -> None:
    rig.tell(rules=[{"action": "PutSnapshotBlock", "how": "refuse", "status": 403, "after": 3,
                     "code": "AccessDeniedException"}])  # fmt: skip
    with pytest.raises(AwsError, match="AccessDeniedException"):
        upload(rig.connect(), image)
    rig.tell(rules=[])
    platform, done = rig.connect(), list[int]()
    sent = listen(platform, "StartSnapshot", "PutSnapshotBlock")

    uploaded = platform.upload(image, done.append)

    blocks = rig.blocks(rig.snapshot_of(uploaded))
    assert [name for name, _ in sent] == ["PutSnapshotBlock"] * (len(blocks) - 3)
    assert sum(done) == image.size
    assert platform.find_image(image) == uploaded


@pytest.mark.parametrize(
    "action", ["StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage"]
)
def test_an_answer_that_is_lost_during_an_upload_makes_nothing_twice(
    rig: AwsRig, image: DiskImage, action: str
) -> None:
    """Without tokens, so that it is found by its tags."""
    rig.tell(rules=[{"action": action, "how": "lose", "times": 1}], tokens=False)
    to = Delivery("cloud", rig.connect(), Project(image.path.parent), 4, quick())

    uploaded = to.upload(image)

    ec2 = rig.admin("ec2")
    tagged = [{"Name": "tag-key", "Values": ["kubekiln-image"]}]
    assert [a["ImageId"] for a in ec2.describe_images(Filters=tagged)["Images"]] == [uploaded.id]
    assert len(ec2.describe_snapshots(Filters=tagged)["Snapshots"]) == 1
    assert to.platform.find_image(image) == uploaded


def test_a_snapshot_that_aws_gave_up_is_begun_anew(rig: AwsRig, image: DiskImage) -> None:
    rig.tell(rules=[{"action": "CompleteSnapshot", "how": "refuse", "status": 403}])
    with pytest.raises(AwsError):
        upload(rig.connect(), image)
    tagged = [{"Name": "tag-key", "Values": ["kubekiln-image"]}]
    (begun,) = rig.admin("ec2").describe_snapshots(Filters=tagged)["Snapshots"]
    rig.tell(rules=[], states={begun["SnapshotId"]: "error"})

    uploaded = upload(rig.connect(), image)

    (now,) = rig.admin("ec2").describe_snapshots(Filters=tagged)["Snapshots"]
    assert now["SnapshotId"] == rig.snapshot_of(uploaded) != begun["SnapshotId"]


def test_what_is_read_back_otherwise_counts_for_nothing_and_goes(
    rig: AwsRig, image: DiskImage
) -> None:
    rig.tell(rules=[{"action": "ListSnapshotBlocks", "how": "refuse", "status": 403}])
    with pytest.raises(AwsError):
        upload(rig.connect(), image)
    tagged = [{"Name": "tag-key", "Values": ["kubekiln-image"]}]
    (whole,) = rig.admin("ec2").describe_snapshots(Filters=tagged)["Snapshots"]
    rig.tell(rules=[], spoil=whole["SnapshotId"])

    with pytest.raises(IntegrityError, match="is not what was put there"):
        upload(rig.connect(read_back="all"), image)

    assert rig.leftovers() == []
    assert upload(rig.connect(read_back="all"), image)


def test_a_machine_is_asked_for_with_all_that_it_needs_in_one_request(
    rig: AwsRig, image: DiskImage, tmp_path: Path
) -> None:
    platform = rig.connect(
        source_dest_check=False, public_address=False, instance_profile="k8s-node",
        volume_iops=4000, kms_key="alias/k", tags={"team": "platform"},
    )  # fmt: skip
    spec = replace(make_spec(tmp_path, "lab-1"), cpus=2, memory_mib=8192, disk_gib=30)
    ami = upload(platform, image)
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
    rig: AwsRig, image: DiskImage, tmp_path: Path
) -> None:
    platform = rig.connect(source_dest_check=False)
    ami = upload(platform, image)
    rig.tell(rules=[{"action": "ModifyInstanceAttribute", "how": "cut", "times": 1}])
    to = Delivery("cloud", platform, Project(tmp_path), 4, quick())

    (made,) = to.boot([make_spec(tmp_path, "lab-1")], ami)

    (listed,) = platform.list_instances("lab")
    assert (listed.id, listed.state) == (made.id, "running")


def test_the_same_machine_can_be_made_again_after_it_was_removed(
    rig: AwsRig, image: DiskImage, tmp_path: Path
) -> None:
    platform, spec = rig.connect(), make_spec(tmp_path, "lab-1")
    ami = upload(platform, image)
    sent = listen(platform, "RunInstances")
    first = platform.create(spec, ami)
    platform.delete(first)

    second = platform.create(spec, ami)

    assert second.id != first.id
    assert platform.create(spec, ami).id == second.id, "asked again it is the same"
    tokens = [params["ClientToken"] for _, params in sent]
    assert len(set(tokens)) == 2, "one of each generation, the same for the same"


def test_what_a_machine_left_is_found_and_removed(
    rig: AwsRig, image: DiskImage, tmp_path: Path
) -> None:
    platform, ec2 = rig.connect(), rig.admin("ec2")
    made = platform.create(make_spec(tmp_path, "lab-1"), upload(platform, image))
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
    rig: AwsRig, image: DiskImage, tmp_path: Path
) -> None:
    ec2, to = rig.admin("ec2"), Delivery("cloud", rig.connect(), Project(tmp_path), 1, quick())
    spec, ami = replace(make_spec(tmp_path, "lab-1"), etcd_disk_gib=2), to.upload(image)
    (made,) = to.boot([spec], ami)
    of_etcd = [{"Name": "size", "Values": ["2"]}]
    (volume,) = (v["VolumeId"] for v in ec2.describe_volumes(Filters=of_etcd)["Volumes"])
    ec2.detach_volume(VolumeId=volume, InstanceId=made.id)
    rig.connect().delete(made)
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


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"profile": "nobody"}, "nobody"),
        ({"subnet": "no-such"}, "there is no subnet no-such"),
        ({"security_groups": ["no-such"]}, "there is no security group no-such"),
        ({"instance_type": "m9.huge"}, "no instances of type m9.huge in eu-central-1"),
    ],
    ids=["profile", "subnet", "group", "type"],
)
def test_what_is_wrong_with_the_settings_is_said_with_a_hint(
    rig: AwsRig, more: dict[str, Any], what: str
) -> None:
    settings = rig.settings(**more)

    (problem,) = AwsPlatform(settings).problems()

    assert what in problem.what
    assert problem.hint


def test_no_credentials_and_no_region_are_problems(
    rig: AwsRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    (problem,) = AwsPlatform(rig.settings(profile=None)).problems()
    assert "NoCredentialsError" in problem.what
    (problem,) = AwsPlatform(rig.settings(profile=None, region=None)).problems()
    assert "NoRegionError" in problem.what


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


def quick() -> Patience:
    return Patience(first_wait_s=0.01, longest_wait_s=0.1)


def numbered(directory: Path, count: int) -> list[InstanceSpec]:
    first = make_spec(directory, "lab-1")
    return [
        replace(first, node=f"n-{i:03}", addresses=(f"10.80.1.{i + 10}",)) for i in range(count)
    ]


def test_200_machines_with_lost_answers_are_all_there_none_twice_none_left(
    rig: AwsRig, image: DiskImage, tmp_path: Path
) -> None:
    """5 % of all requests go wrong: half of those after the work was done, and no token helps."""
    platform = rig.connect(upload_threads=4, parallel=16)
    to = Delivery("cloud", platform, Project(tmp_path), 16, quick())
    ami, wanted = to.upload(image), numbered(tmp_path, 200)
    before, ever = rig.leftovers(), len(all_machines(rig))
    rig.tell(rules=[{"how": "lose lose cut refuse", "share": 0.05}], tokens=False, seed=5)

    made = to.boot(wanted, ami)

    asked = rig.tell()
    machines = all_machines(rig)[ever:]
    assert sorted(i.node for i in made) == [s.node for s in wanted]
    assert sorted(node for node, state in machines if state == "running") == [
        s.node for s in wanted
    ]
    assert len(machines) == 200, "none was made twice, not even for a moment"
    assert asked["troubled"]["RunInstances lose"] > 0, (
        "answers were lost of machines that were made"
    )

    removed = to.destroy("lab")

    troubled = rig.tell()["troubled"]
    rig.tell(rules=[])
    assert sorted(removed) == [s.node for s in wanted]
    assert rig.leftovers() == before
    assert not (tmp_path / "state/lab/target-cloud.journal").exists()
    assert troubled["TerminateInstances lose"] > 0
    assert sum(troubled.values()) > 25, troubled


def all_machines(rig: AwsRig) -> list[tuple[str, str]]:
    """List node and state of every machine there ever was, in the order of their making."""
    pages = rig.admin("ec2").get_paginator("describe_instances").paginate()
    return [
        ({t["Key"]: t["Value"] for t in i["Tags"]}["kubekiln-node"], i["State"]["Name"])
        for page in pages
        for r in page["Reservations"]
        for i in r["Instances"]
    ]
