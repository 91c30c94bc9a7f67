# SPDX-License-Identifier: Apache-2.0
"""How does a raw disk become an AMI of ours, and how is it found again?

Snapshot first (`aws_blocks`), completed and read back, and only then the AMI that makes it count.
What was left on the way is gone on with: a snapshot that is pending, if the journal beside the
image knows it; one that is completed, whoever began it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.progress import say
from pipeline.targets.aws_blocks import (
    BLOCK,
    Sums,
    UploadJournal,
    check_snapshot,
    linear_checksum,
    put_blocks,
)
from pipeline.targets.aws_calls import Api, AwsBusyError, AwsError
from pipeline.targets.platform import TAG_PREFIX, Advance, DiskImage, RemoteImage

ROOT_DEVICE = "/dev/xvda"
"""Of every AMI of ours; Debian's own have the same."""
CONTENT_TAG = f"{TAG_PREFIX}-image"
NAME_TAG = f"{TAG_PREFIX}-name"
SNAPSHOT_TAG = f"{TAG_PREFIX}-snapshot"
UPLOAD_TAG = f"{TAG_PREFIX}-upload"

_GIB = 1 << 30
# Of what nobody goes on with, AWS disposes by itself after so long. A day: the longest is three.
_PENDING_MINUTES = 24 * 60
ARCHITECTURES: Final[Mapping[str, str]] = {"amd64": "x86_64", "arm64": "arm64"}
# The image boots by BIOS as well, but only on x86; Graviton has UEFI alone.
_BOOT_MODES: Final[Mapping[str, str]] = {"amd64": "uefi-preferred", "arm64": "uefi"}
_GONE = frozenset({
    "InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidSnapshot.NotFound",
    "ResourceNotFoundException",
})  # fmt: skip

# EBS says ValidationException for blocks and snapshots that aren't what it was told.
_NO_USE = _GONE | {"ValidationException"}


def ami_name(image: DiskImage) -> str:
    """Name an AMI: AWS has each name once in an account and region, so content is part of it."""
    return f"{image.remote_name}-{image.sha256[:8]}"


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Write tags as AWS takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    """Read what AWS says of a thing's tags; of network cards it says `TagSet`."""
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags") or item.get("TagSet", ())}


def by_tags(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Filter a list by tags, as AWS takes it."""
    return [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]


@dataclass(frozen=True)
class Images:
    """The AMIs of ours in one region of one account."""

    ec2: Api
    ebs: Api
    blocks: Api
    """EBS, with a few attempts for each block."""
    place: str
    threads: int
    read_all: bool
    tags: Mapping[str, str]
    """Beside ours, of whoever uses the account."""

    def find(self, image: DiskImage) -> RemoteImage | None:
        """Look for an AMI of this content that can be used, and has its snapshot."""
        return self._registered(image, "available")

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Put the disk into a snapshot, read it back, register it; goes on where one was cut."""
        registered = self._registered(image, "pending", "available")
        if registered:
            advance(image.size)
            return self._usable(registered)
        journal = UploadJournal.load(image.path, image.sha256, self.place)
        snapshot, completed = self._begun(image, journal) or (self._begin(image, journal), False)
        journal.started(snapshot)
        sums = self._fill(image, journal, advance, completed=completed)
        self._check(journal, sums)
        ami = self._register(image, snapshot)
        journal.forget()
        return self._usable(ami)

    def delete(self, image: RemoteImage) -> None:
        """Remove the AMI, then every snapshot of it, also those of uploads that were given up."""
        filters = [{"Name": "image-id", "Values": [image.id]}]
        found = self.ec2("describe_images", Owners=["self"], Filters=filters)["Images"]
        for ami in found:
            if tags_of(ami).get(NAME_TAG) != image.name:
                raise KubekilnError(
                    f"{image.id} has not the tag {NAME_TAG}={image.name}",
                    hint="what isn't tagged as ours is left alone",
                )
            self._gone_is_fine("deregister_image", ImageId=image.id)
        mine = by_tags({NAME_TAG: image.name})
        for snapshot in self.ec2.pages(
            "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=mine
        ):
            self._gone_is_fine("delete_snapshot", SnapshotId=snapshot["SnapshotId"])

    def _registered(self, image: DiskImage, *states: str) -> RemoteImage | None:
        filters = [*by_tags({CONTENT_TAG: image.sha256}),
                   {"Name": "state", "Values": list(states)}]  # fmt: skip
        amis = list(self.ec2.pages("describe_images", "Images", Owners=["self"], Filters=filters))
        if not amis:
            return None
        whole = {s["SnapshotId"] for s in self._snapshots(image) if s["State"] == "completed"}
        good = sorted(a["ImageId"] for a in amis if tags_of(a).get(SNAPSHOT_TAG) in whole)
        return RemoteImage(good[0], ami_name(image)) if good else None

    def _snapshots(self, image: DiskImage) -> Sequence[dict[str, Any]]:
        filters = by_tags({CONTENT_TAG: image.sha256})
        return list(self.ec2.pages(
            "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=filters
        ))  # fmt: skip

    def _begun(self, image: DiskImage, journal: UploadJournal) -> tuple[str, bool] | None:
        """Give a snapshot to go on with, and whether it is completed; removes failed ones."""
        found = self._snapshots(image)
        for one in (s["SnapshotId"] for s in found if s["State"] == "error"):
            self._gone_is_fine("delete_snapshot", SnapshotId=one)
            if one == journal.snapshot:
                journal.forget()
        for one in (s["SnapshotId"] for s in found if s["State"] == "completed"):
            return str(one), True
        for snapshot in found:
            if (
                snapshot["State"] == "pending"
                and tags_of(snapshot).get(UPLOAD_TAG) == journal.token
            ):
                return str(snapshot["SnapshotId"]), False
        return None

    def _begin(self, image: DiskImage, journal: UploadJournal) -> str:
        # A snapshot may be too young to be listed: for the token of its upload EBS gives it again.
        token = journal.token or journal.begin()
        tags = {
            **self.tags, "Name": ami_name(image), CONTENT_TAG: image.sha256,
            NAME_TAG: ami_name(image), UPLOAD_TAG: token,
        }  # fmt: skip
        started = self.ebs(
            "start_snapshot",
            VolumeSize=-(-max(image.size, image.virtual_size) // _GIB),
            Description=f"{ami_name(image)}, by kubekiln",
            ClientToken=token,
            Timeout=_PENDING_MINUTES,
            Tags=tag_list(tags),
        )
        return str(started["SnapshotId"])

    def _fill(
        self, image: DiskImage, journal: UploadJournal, advance: Advance, *, completed: bool
    ) -> Sums:
        if completed:
            journal.done = set(range(-(-image.size // BLOCK)))
        elif journal.done:
            say(f"going on with {journal.snapshot}, which has {len(journal.done)} blocks")
        try:
            sums = put_blocks(self.blocks, image.path, journal, advance, threads=self.threads)
            if not completed:
                self._complete(journal.snapshot, sums)
        except AwsError as error:
            if error.code in _NO_USE:
                journal.forget()  # the next attempt begins another
            if error.code not in _GONE:
                raise
            raise AwsBusyError(f"the snapshot that was begun is gone: {error.problems[0].what}",
                               where=error.problems[0].where) from error  # fmt: skip
        return sums

    def _complete(self, snapshot: str, sums: Sums) -> None:
        self.ebs(
            "complete_snapshot",
            SnapshotId=snapshot,
            ChangedBlocksCount=len(sums),
            Checksum=linear_checksum(sums),
            ChecksumAlgorithm="SHA256",
            ChecksumAggregationMethod="LINEAR",
        )
        # By filters: what is too new to be seen is an empty list then, and no error.
        self.ec2.wait("snapshot_completed", Filters=[{"Name": "snapshot-id", "Values": [snapshot]}])

    def _check(self, journal: UploadJournal, sums: Sums) -> None:
        try:
            check_snapshot(self.blocks, journal.snapshot, sums, whole=self.read_all,
                           threads=self.threads)  # fmt: skip
        except IntegrityError:
            self._gone_is_fine("delete_snapshot", SnapshotId=journal.snapshot)
            journal.forget()
            raise

    def _register(self, image: DiskImage, snapshot: str) -> RemoteImage:
        try:
            answer = self.ec2("register_image", **register_request(image, snapshot, self.tags))
        except AwsError as error:
            if error.code != "InvalidAMIName.Duplicate":
                raise
            # Registered by whoever was faster, or by us when the answer got lost.
            ours = self._registered(image, "pending", "available")
            if ours is None:
                raise
            return ours
        return RemoteImage(str(answer["ImageId"]), ami_name(image))

    def _usable(self, ami: RemoteImage) -> RemoteImage:
        self.ec2.wait("image_available", Filters=[{"Name": "image-id", "Values": [ami.id]}])
        return ami

    def _gone_is_fine(self, action: str, **arguments: str) -> None:
        try:
            self.ec2(action, **arguments)
        except AwsError as error:
            if error.code not in _GONE:
                raise


def register_request(image: DiskImage, snapshot: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Describe the AMI: what its machines boot from and how, and that they keep to IMDSv2."""
    name = ami_name(image)
    own = {**tags, "Name": name, CONTENT_TAG: image.sha256, NAME_TAG: name, SNAPSHOT_TAG: snapshot}
    root = {"SnapshotId": snapshot, "VolumeType": "gp3", "DeleteOnTermination": True}
    return {
        "Name": name,
        "Description": f"kubekiln image {image.name}, {image.digest}",
        "Architecture": ARCHITECTURES[image.architecture],
        "RootDeviceName": ROOT_DEVICE,
        "BlockDeviceMappings": [{"DeviceName": ROOT_DEVICE, "Ebs": root}],
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "SriovNetSupport": "simple",
        "BootMode": _BOOT_MODES[image.architecture],
        "ImdsSupport": "v2.0",
        "TagSpecifications": [{"ResourceType": "image", "Tags": tag_list(own)}],
    }
