# SPDX-License-Identifier: Apache-2.0
"""What does a target's file say about AWS? Names only: credentials are found as its tools do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kubekiln.config import invalid
from pipeline.targets.platform import TAG_PREFIX, TargetSettings

# https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html
GP3_IOPS = 3000
"""A gp3 volume has so many at least, and if nothing is said."""
GP3_IOPS_PER_MIB = 4
"""It needs so many for each MiB/s."""


class Settings(TargetSettings):
    """EC2 in one region of one account."""

    type: Literal["aws"]
    """Amazon EC2."""
    profile: str | None = Field(None, examples=["kubekiln"])
    """A profile of ~/.aws/config; without it what AWS_PROFILE names, or `default`."""
    region: str | None = Field(None, examples=["eu-central-1"])
    """Where; without it the profile's region, or AWS_REGION."""
    endpoint: str | None = Field(None, examples=["https://ec2.internal.example"])
    """URL at which all of EC2 and EBS is, for an installation of your own; without it AWS' own, or
    those that the profile names (`services`, `endpoint_url`)."""
    subnet: str = Field(examples=["subnet-0f0e1d2c3b4a59687", "k8s-nodes"])
    """Of the node network: an id, or the one subnet with that tag `Name`."""
    security_groups: tuple[str, ...] = Field((), examples=[["k8s-nodes", "sg-0a1b2c3d4e5f60718"]])
    """Ids, or names in the subnet's VPC; without any EC2 takes the VPC's default group."""
    instance_type: str | None = Field(None, examples=["m7i.large"])
    """Of all machines; without it the smallest of a table that has a node's `cpus` and
    `memory_mib`."""
    keep_addresses: bool = True
    """Give each machine the address that the cluster's file declares; it must be in the subnet.
    With `false` EC2 chooses, which suits only clusters in which nothing relies on addresses."""
    source_dest_check: bool = True
    """Drop what is neither from nor to a machine's own address. Turn it off for flannel's
    `host-gw`, and for whatever else routes pods without a tunnel."""
    public_address: bool | None = None
    """Give a public IPv4 address, or none; without it as the subnet does."""
    instance_profile: str | None = Field(None, examples=["k8s-node"])
    """An IAM instance profile, by name or ARN, for what runs on the machines."""
    volume_type: Literal["gp3", "gp2", "io1", "io2"] = "gp3"
    """Of all volumes; their sizes are the node's `disk_gib` and `etcd.disk_gib`."""
    volume_iops: int | None = Field(None, ge=100, examples=[6000])
    """Operations per second of each volume, or as many as its size allows; without it the type's
    own, which io1 and io2 have none of. gp3 has at least 3000."""
    volume_throughput: int | None = Field(None, ge=125, examples=[250])
    """MiB/s of each volume, for gp3 alone, up to a quarter of its IOPS; without it 125."""
    encrypted: bool = True
    """Encrypt volumes."""
    kms_key: str | None = Field(None, examples=["alias/kubekiln"])
    """With which key (id, ARN or alias); without it the account's own for EBS."""
    upload_threads: int = Field(16, ge=1, le=128)
    """How many blocks of 512 KiB are on their way at a time; EBS takes some hundred a second."""
    read_back: Literal["sample", "all"] = "sample"
    """How much of an uploaded image is read back. EBS itself compares the checksum of every block;
    beside that the list of blocks is compared, and 16 blocks, or all, which is paid for as
    traffic."""
    tags: dict[str, str] = Field(default_factory=dict, examples=[{"team": "platform"}])
    """Beside ours, on all that is made."""
    parallel: int = 16
    """How many machines are made, or removed, at a time; each takes EC2 a while."""

    @model_validator(mode="after")
    def _ours_are_ours(self) -> Settings:
        for key in self.tags:
            if key == "Name" or key.startswith((TAG_PREFIX, "aws:")):
                raise invalid(f"tag {key!r} is not yours to set", at=("tags", key))
        return self

    @model_validator(mode="after")
    def _volumes_are_possible(self) -> Settings:
        if self.volume_type in ("io1", "io2") and self.volume_iops is None:
            raise invalid(f"{self.volume_type} has no IOPS of its own", at=("volume_type",),
                          hint="say how many: `volume_iops`")  # fmt: skip
        if self.volume_type == "gp2" and self.volume_iops is not None:
            raise invalid("gp2's IOPS come from its size", at=("volume_iops",),
                          hint="remove it, or take gp3")  # fmt: skip
        if self.volume_type != "gp3" and self.volume_throughput is not None:
            raise invalid("only gp3 has a throughput to set", at=("volume_throughput",),
                          hint="remove it, or take gp3")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _gp3_is_possible(self) -> Settings:
        iops, mib = self.volume_iops or GP3_IOPS, self.volume_throughput or 0
        if self.volume_type == "gp3" and iops < GP3_IOPS:
            raise invalid(f"gp3 has {GP3_IOPS} IOPS at least, not {iops}", at=("volume_iops",),
                          hint="remove it, or take io2")  # fmt: skip
        if mib * GP3_IOPS_PER_MIB > iops:
            raise invalid(f"{mib} MiB/s need {mib * GP3_IOPS_PER_MIB} IOPS, there are {iops}",
                          at=("volume_throughput",), hint="raise `volume_iops`")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _key_needs_encryption(self) -> Settings:
        if self.kms_key and not self.encrypted:
            raise invalid("kms_key without encryption", at=("kms_key",),
                          hint="remove it, or `encrypted: true`")  # fmt: skip
        return self
