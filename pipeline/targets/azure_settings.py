# SPDX-License-Identifier: Apache-2.0
"""What does a file of `configs/targets` say of a place in Azure?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kubekiln.config import Model, invalid
from pipeline.targets.platform import TargetSettings

_MIB_PER_GIB = 1024


class Size(Model):
    """A machine size, and what it has."""

    name: str = Field(examples=["Standard_D2s_v5"])
    """As Azure calls it."""
    cpus: int
    """Virtual CPUs."""
    memory_mib: int
    """Memory, in MiB."""


# https://learn.microsoft.com/azure/virtual-machines/sizes/general-purpose/dsv5-series
_DSV5 = tuple(
    Size(name=f"Standard_D{cpus}s_v5", cpus=cpus, memory_mib=cpus * 4 * _MIB_PER_GIB)
    for cpus in (2, 4, 8, 16, 32, 48, 64, 96)
)


class Gallery(Model):
    """An Azure Compute Gallery that gets the image as a version."""

    name: str = Field(examples=["images"])
    """Of the gallery, which must be there."""
    definition: str | None = Field(None, examples=["kubekiln-debian-13"])
    """Of the image definition, made if it isn't there; `kubekiln-<image>` if not given."""
    regions: tuple[str, ...] = Field((), examples=[["westeurope", "northeurope"]])
    """Further regions to which Azure copies each version."""
    replicas: int = Field(1, ge=1, le=100)
    """Copies in each region; Azure advises one per 20 machines that start at the same time."""


class Settings(TargetSettings):
    """A resource group of Azure."""

    type: Literal["azure"]
    """Microsoft Azure."""
    subscription: str | None = Field(None, examples=["00000000-0000-0000-0000-000000000000"])
    """Its ID. If not given: AZURE_SUBSCRIPTION_ID, then the one that `az account set` chose."""
    resource_group: str = Field(examples=["kubekiln"])
    """Gets machines, network cards, disks and images; must be there."""
    location: str = Field(examples=["westeurope"])
    """Azure's name of the region."""
    cloud: Literal["public", "us-government", "china"] = "public"
    """Which of Azure's clouds."""
    storage_account: str = Field(examples=["kubekilnimages"])
    """Gets the disk on its way to an image; in the same region, not of a premium block kind."""
    storage_resource_group: str | None = None
    """Of the storage account, if it is another one."""
    container: str = Field("kubekiln", pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$")
    """In the storage account; made if it isn't there."""
    keep_blob: bool = False
    """Keep the uploaded disk after the image was made from it. It costs; nothing reads it again."""
    verify: Literal["md5", "read"] = "md5"
    """How an upload is checked. `md5`: Azure compares each range's MD5 before it writes the range;
    what an earlier attempt left is read back. `read`: everything is read back in the end, which
    is paid for as outgoing traffic."""
    streams: int = Field(8, ge=1, le=64)
    """Ranges (of 4 MiB) on their way at a time."""
    gallery: Gallery | None = None
    """Make image versions of this gallery; managed images if not given."""
    generation: Literal["V1", "V2"] = "V2"
    """Of the virtual machines: V2 boots by UEFI, V1 by BIOS. The image does both."""
    subnet: str = Field(examples=["kubekiln-net/nodes"])
    """Of the nodes: `network/subnet` of the resource group, or a resource ID."""
    security_group: str | None = None
    """Of the network card: a name in the resource group, or a resource ID."""
    static_addresses: bool = True
    """Give each machine the addresses that the cluster's config says; they must be of the subnet.
    Otherwise Azure chooses, which suits no cluster whose config names addresses."""
    accelerated_networking: bool = False
    """Give the card a virtual function (SR-IOV); not all sizes have it."""
    ip_forwarding: bool = False
    """Let the card pass packets of foreign addresses: for a network plugin without tunnels."""
    size: str | None = Field(None, examples=["Standard_D4s_v5"])
    """Of all machines, whatever the cluster's config says of CPUs and memory."""
    sizes: tuple[Size, ...] = _DSV5
    """The smallest of these that has a node's CPUs and memory is taken, unless `size` is given."""
    zones: tuple[Literal["1", "2", "3"], ...] = Field((), examples=[["1", "2", "3"]])
    """Availability zones, in turn by the number in the node's name."""
    availability_set: str | None = None
    """A name in the resource group, or a resource ID; not together with `zones`."""
    disk_type: Literal["Standard_LRS", "StandardSSD_LRS", "StandardSSD_ZRS", "Premium_LRS",
                       "Premium_ZRS"] = "Premium_LRS"  # fmt: skip
    """Of the machines' disks. etcd wants Premium."""
    admin_user: str = "kubekiln"
    """Azure makes no machine without one."""
    ssh_public_key: Path | None = Field(None, examples=["~/.ssh/id_ed25519.pub"])
    """Lets this user in. Azure wants a key; if none is given it gets one whose private half was
    thrown away, and nobody gets in."""
    tags: Mapping[str, str] = Field(default_factory=dict, examples=[{"cost-centre": "42"}])
    """Further tags of all that is made."""
    management_url: str | None = Field(None, examples=["https://management.example.com"])
    """Of the Resource Manager, where it is reached by another address than that of `cloud`."""
    blob_url: str | None = Field(None, examples=["https://images.blob.example.com"])
    """Of the storage account's blobs, where its name doesn't say it."""

    def below(self, root: Path) -> Self:
        """Take the key's path as one below the project, if it isn't absolute."""
        key = self.ssh_public_key
        return self.model_copy(update={"ssh_public_key": root / key.expanduser()}) if key else self

    @model_validator(mode="after")
    def _zones_or_set(self) -> Settings:
        if self.zones and self.availability_set:
            raise invalid(
                "a machine is in a zone or in an availability set, not in both",
                hint="remove zones or availability_set",
                at=("availability_set",),
            )
        return self
