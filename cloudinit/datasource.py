# SPDX-License-Identifier: Apache-2.0
"""How much user-data does each platform take, and in which encoding is it counted?"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cloudinit.model import DatasourceName

Counted = Literal["gzip", "gzip+base64"]


@dataclass(frozen=True)
class Limit:
    """A platform's limit; `size` is None where none is documented."""

    title: str
    size: int | None
    counted: Counted

    def measure(self, compressed: bytes) -> int:
        """Count bytes as the platform does."""
        if self.counted == "gzip":
            return len(compressed)
        return len(base64.b64encode(compressed))


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


def measure_all(compressed: bytes) -> tuple[Fit, ...]:
    """Hold a compressed payload against every platform."""
    return tuple(Fit(name, limit, limit.measure(compressed)) for name, limit in LIMITS.items())
