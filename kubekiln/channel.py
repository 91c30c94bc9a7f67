# SPDX-License-Identifier: Apache-2.0
"""How does user-data reach a machine on each platform: in which form, how much of it, who reads it?

THE table of channels. Rendering writes what is attached by it, checks sizes by it and warns by it;
an image must look at one of a channel's `sources`; targets attach by it.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

DatasourceName = Literal[
    "nocloud", "ec2", "linode", "hetzner", "cloudstack", "openstack", "azure", "vsphere", "gce"
]
Encoding = Literal["gzip", "gzip+base64"]
Seed = Mapping[str, bytes]
"""user-data, meta-data and network-config by these names, as rendered; a pool has the first."""

KEY_CREDENTIAL = "kubekiln.age-key"
"""What systemd, and a file, call a machine's key to its user-data, where that is encrypted."""

_ON_THE_MACHINE = "every process of the machine, from its metadata address"
_VSPHERE_METADATA = "guestinfo.metadata"


@dataclass(frozen=True)
class Channel:
    """A platform's way of giving user-data to a machine."""

    title: str
    sources: tuple[str, ...]
    """What cloud-init calls it; the image must look at one of them."""
    size: int | None
    """Most bytes, as the platform counts them; None where no limit is documented."""
    counted: Encoding = "gzip"
    """In which form the size counts, which is also that of `file`."""
    file: str = ""
    """File beside user-data that holds what is attached; none where the plain files are."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """What the platform must be told beside it."""
    carries_network: bool = False
    """Whether our network-config reaches the machine; else the platform's DHCP is its network."""
    moves_addresses: bool = True
    """Whether a machine may take an address over by itself, as a virtual one by VRRP needs."""
    lets_pods_pass: bool = True
    """Whether its network can be told to bring packets between pods' own addresses to the machine
    that they are sent to, as flannel's host-gw needs; else it knows the way by its routes alone."""
    readable: str = ""
    """Who can read it for as long as the machine is there, beside the machine's root."""

    def measure(self, size_gzip: int) -> int:
        """Count bytes as the platform does."""
        return size_gzip if self.counted == "gzip" else -(-size_gzip // 3) * 4

    def attach(self, seed: Seed) -> dict[str, bytes]:
        """Give each file that is attached to a machine there, in the platform's form."""
        if not self.file:
            return dict(seed)
        attached = {self.file: self._encode(seed["user-data"])}
        if self.carries_network and "meta-data" in seed:
            attached[_VSPHERE_METADATA] = self._encode(_with_network(seed))
        return attached

    def _encode(self, content: bytes) -> bytes:
        packed = compress(content)
        return packed if self.counted == "gzip" else base64.b64encode(packed)


def compress(content: bytes) -> bytes:
    """Give the form that size limits are met with; cloud-init unpacks it by itself."""
    return gzip.compress(content, compresslevel=9, mtime=0)


def _with_network(seed: Seed) -> bytes:
    """Put the network configuration into the meta-data, where cloud-init's VMware source has it."""
    document: dict[str, Any] = yaml.safe_load(seed["meta-data"])
    document["network"] = yaml.safe_load(seed["network-config"])
    return yaml.safe_dump(document, sort_keys=False).encode()


# Limits are from the platforms' documentation (docs/clusters.md). EC2, Linode and Azure count what
# the machine reads, and their clients encode it; the others count what is sent. Where it can be
# read: for Azure its own advice, since the API doesn't give custom data back. CloudStack's is what
# its setting vm.userdata.max.length has by default (its source, UserDataManager); at most 1 MiB.
# Incus, MAAS and Tinkerbell have no limit for a seed (docs/platforms/recipes.md), and Ironic's
# (MAX_CONFIG_DRIVE_SIZE_MB, 64, of its agent) is one of the whole drive: all of them are `nocloud`.
CHANNELS: Mapping[DatasourceName, Channel] = {
    "nocloud": Channel(
        "NoCloud (seed ISO, HTTP)", ("NoCloud",), None, carries_network=True,
    ),
    "ec2": Channel(
        "Amazon EC2", ("Ec2",), 16_384, file="user-data.gz", moves_addresses=False,
        readable=f"whoever may describe the instance's attributes, and {_ON_THE_MACHINE}",
    ),
    "linode": Channel(
        "Linode", ("Akamai",), 16_384, file="user-data.gz", readable=_ON_THE_MACHINE,
    ),
    "hetzner": Channel(
        "Hetzner Cloud", ("Hetzner",), 32_768, "gzip+base64", "user-data.gz.b64",
        moves_addresses=False, lets_pods_pass=False,
        readable=_ON_THE_MACHINE,
    ),
    "cloudstack": Channel(
        "CloudStack", ("CloudStack",), 32_768, "gzip+base64", "user-data.gz.b64",
        readable=f"whoever may list the account's machines, and {_ON_THE_MACHINE}",
    ),
    "openstack": Channel(
        "OpenStack Nova", ("OpenStack", "ConfigDrive"), 65_535, "gzip+base64", "user-data.gz.b64",
        readable=f"whoever may show the server, Nova's database, and {_ON_THE_MACHINE}",
    ),
    "azure": Channel(
        "Azure custom data", ("Azure",), 65_535, file="user-data.gz", moves_addresses=False,
        lets_pods_pass=False,
        readable="the platform, which advises against secrets in custom data",
    ),
    "vsphere": Channel(
        "vSphere guestinfo", ("VMware",), 65_536, "gzip+base64", "guestinfo.userdata",
        beside={
            "guestinfo.userdata.encoding": "gzip+base64",
            f"{_VSPHERE_METADATA}.encoding": "gzip+base64",
        },
        carries_network=True,
        readable="whoever may see the machine's settings in vCenter, and every process on it that "
        "may talk to the hypervisor",
    ),
    "gce": Channel(
        "Google Compute Engine", ("GCE",), 262_144, "gzip+base64", "user-data.gz.b64",
        moves_addresses=False, lets_pods_pass=False,
        beside={"user-data-encoding": "base64"},
        readable=f"whoever may view the instance, and {_ON_THE_MACHINE}",
    ),
}  # fmt: skip
