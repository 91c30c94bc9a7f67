# SPDX-License-Identifier: Apache-2.0
"""How much user-data does each platform take, and in which encoding is it counted?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cloudinit.modeltypes import DatasourceName

Counted = Literal["gzip", "gzip+base64"]


@dataclass(frozen=True)
class Limit:
    """A platform's limit; `size` is None where none is documented."""

    title: str
    size: int | None
    counted: Counted

    def measure(self, size_gzip: int) -> int:
        """Count bytes as the platform does."""
        return size_gzip if self.counted == "gzip" else -(-size_gzip // 3) * 4


# From the platforms' documentation (docs/clusters.md has the sources). EC2, Linode, Azure and GCE
# count what the machine reads; the others count what is sent.
LIMITS: Mapping[DatasourceName, Limit] = {
    "nocloud": Limit("NoCloud (seed ISO, HTTP)", None, "gzip"),
    "ec2": Limit("Amazon EC2", 16_384, "gzip"),
    "linode": Limit("Linode", 16_384, "gzip"),
    "hetzner": Limit("Hetzner Cloud", 32_768, "gzip+base64"),
    "cloudstack": Limit("CloudStack", 32_768, "gzip+base64"),
    "openstack": Limit("OpenStack Nova", 65_535, "gzip+base64"),
    "azure": Limit("Azure custom data", 65_535, "gzip"),
    "vsphere": Limit("vSphere guestinfo", 65_536, "gzip+base64"),
    "gce": Limit("Google Compute Engine", 262_144, "gzip+base64"),
}


@dataclass(frozen=True)
class Fit:
    """How a payload stands against one platform's limit."""

    name: DatasourceName
    limit: Limit
    size: int

    @property
    def is_within(self) -> bool:
        return self.limit.size is None or self.size <= self.limit.size


def measure_all(size_gzip: int) -> tuple[Fit, ...]:
    """Hold the size of a compressed payload against every platform."""
    return tuple(Fit(name, limit, limit.measure(size_gzip)) for name, limit in LIMITS.items())
