# SPDX-License-Identifier: Apache-2.0
"""Is an image sent to AWS exactly as its documentation says, and does that go on where it ended?

moto believes much; so what is sent is caught before it leaves, after botocore has checked it by its
own model of the service.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import IntegrityError
from kubekiln.operations.delivery import Delivery
from kubekiln.paths import Project
from pipeline.targets.aws import AwsPlatform
from pipeline.targets.aws_blocks import BLOCK
from pipeline.targets.aws_calls import AwsError
from pipeline.targets.platform import DiskImage
from tests.platforms.rigs.aws import AwsRig, listen, quick
from tests.platforms.rigs.rig import upload

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(600)]


def test_a_snapshot_is_put_as_ebs_wants_it_and_zeros_are_not(
    aws: AwsRig, raw_image: DiskImage
) -> None:
    platform = aws.connect(tags={"team": "platform"})
    sent = listen(platform, "StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot")

    ami = upload(platform, raw_image)

    raw = raw_image.path.read_bytes()
    blocks = {i: raw[i * BLOCK : (i + 1) * BLOCK] for i in range(len(raw) // BLOCK)}
    wanted = {i: block for i, block in blocks.items() if any(block)}
    assert 0 < len(wanted) < len(blocks)
    start = next(params for name, params in sent if name == "StartSnapshot")
    assert (start["VolumeSize"], start["Timeout"]) == (1, 24 * 60)
    tags = {tag["Key"]: tag["Value"] for tag in start["Tags"]}
    assert tags == {
        "team": "platform", "Name": ami.name, "kubekiln-name": ami.name,
        "kubekiln-image": raw_image.sha256, "kubekiln-upload": start["ClientToken"],
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
        "SnapshotId": aws.snapshot_of(ami),
        "ChangedBlocksCount": len(wanted),
        "Checksum": base64.b64encode(whole).decode(),
        "ChecksumAlgorithm": "SHA256",
        "ChecksumAggregationMethod": "LINEAR",
    })  # fmt: skip
    assert list(raw_image.path.parent.glob(".*aws-upload")) == [], "the journal is gone"


def test_a_disk_that_ends_within_a_block_is_filled_up_with_zeros(
    aws: AwsRig, tmp_path: Path
) -> None:
    path = tmp_path / "odd.raw"
    path.write_bytes(b"x" * (BLOCK + 100))
    odd = DiskImage("odd", "d" * 64, path, "raw", "e" * 64, BLOCK + 100)

    blocks = aws.blocks(aws.snapshot_of(upload(aws.connect(), odd)))

    assert blocks == {0: b"x" * BLOCK, 1: (b"x" * 100).ljust(BLOCK, b"\0")}


def test_an_image_is_registered_to_boot_by_uefi_and_to_keep_to_imds_v2(
    aws: AwsRig, raw_image: DiskImage
) -> None:
    platform = aws.connect()
    sent = listen(platform, "RegisterImage")

    ami = upload(platform, raw_image)

    (request,) = [params for _, params in sent]
    tags = request.pop("TagSpecifications")
    assert request == {
        "Name": ami.name,
        "Description": f"kubekiln image test, {raw_image.digest}",
        "Architecture": "x86_64",
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {
            "SnapshotId": aws.snapshot_of(ami), "VolumeType": "gp3", "DeleteOnTermination": True,
        }}],
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "SriovNetSupport": "simple",
        "BootMode": "uefi-preferred",
        "ImdsSupport": "v2.0",
    }  # fmt: skip
    assert [spec["ResourceType"] for spec in tags] == ["image"]


def test_an_upload_that_was_cut_off_goes_on_and_puts_no_block_twice(
    aws: AwsRig, raw_image: DiskImage
) -> None:
    aws.tell(rules=[{"action": "PutSnapshotBlock", "how": "refuse", "status": 403, "after": 3,
                     "code": "AccessDeniedException"}])  # fmt: skip
    with pytest.raises(AwsError, match="AccessDeniedException"):
        upload(aws.connect(), raw_image)
    aws.tell(rules=[])
    platform, done = aws.connect(), list[int]()
    sent = listen(platform, "StartSnapshot", "PutSnapshotBlock")

    uploaded = platform.upload(raw_image, done.append)

    blocks = aws.blocks(aws.snapshot_of(uploaded))
    assert [name for name, _ in sent] == ["PutSnapshotBlock"] * (len(blocks) - 3)
    assert sum(done) == raw_image.size
    assert platform.find_image(raw_image) == uploaded


@pytest.mark.parametrize(
    "action", ["StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage"]
)
def test_an_answer_that_is_lost_during_an_upload_makes_nothing_twice(
    aws: AwsRig, raw_image: DiskImage, action: str
) -> None:
    """Without tokens, so that it is found by its tags."""
    aws.tell(rules=[{"action": action, "how": "lose", "times": 1}], tokens=False)
    to = Delivery("cloud", aws.connect(), Project(raw_image.path.parent), 4, quick())

    uploaded = to.upload(raw_image)

    ec2 = aws.admin("ec2")
    tagged = [{"Name": "tag-key", "Values": ["kubekiln-image"]}]
    assert [a["ImageId"] for a in ec2.describe_images(Filters=tagged)["Images"]] == [uploaded.id]
    assert len(ec2.describe_snapshots(Filters=tagged)["Snapshots"]) == 1
    assert to.platform.find_image(raw_image) == uploaded


def test_a_snapshot_that_aws_gave_up_is_begun_anew(aws: AwsRig, raw_image: DiskImage) -> None:
    aws.tell(rules=[{"action": "CompleteSnapshot", "how": "refuse", "status": 403}])
    with pytest.raises(AwsError):
        upload(aws.connect(), raw_image)
    tagged = [{"Name": "tag-key", "Values": ["kubekiln-image"]}]
    (begun,) = aws.admin("ec2").describe_snapshots(Filters=tagged)["Snapshots"]
    aws.tell(rules=[], states={begun["SnapshotId"]: "error"})

    uploaded = upload(aws.connect(), raw_image)

    (now,) = aws.admin("ec2").describe_snapshots(Filters=tagged)["Snapshots"]
    assert now["SnapshotId"] == aws.snapshot_of(uploaded) != begun["SnapshotId"]


def test_what_is_read_back_otherwise_counts_for_nothing_and_goes(
    aws: AwsRig, raw_image: DiskImage
) -> None:
    aws.tell(rules=[{"action": "ListSnapshotBlocks", "how": "refuse", "status": 403}])
    with pytest.raises(AwsError):
        upload(aws.connect(), raw_image)
    tagged = [{"Name": "tag-key", "Values": ["kubekiln-image"]}]
    (whole,) = aws.admin("ec2").describe_snapshots(Filters=tagged)["Snapshots"]
    aws.tell(rules=[], spoil=whole["SnapshotId"])

    with pytest.raises(IntegrityError, match="is not what was put there"):
        upload(aws.connect(read_back="all"), raw_image)

    assert aws.leftovers() == []
    assert upload(aws.connect(read_back="all"), raw_image)


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
    aws: AwsRig, more: dict[str, Any], what: str
) -> None:
    settings = aws.settings(**more)

    (problem,) = AwsPlatform(settings).problems()

    assert what in problem.what
    assert problem.hint


def test_no_credentials_and_no_region_are_problems(
    aws: AwsRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    (problem,) = AwsPlatform(aws.settings(profile=None)).problems()
    assert "NoCredentialsError" in problem.what
    (problem,) = AwsPlatform(aws.settings(profile=None, region=None)).problems()
    assert "NoRegionError" in problem.what
