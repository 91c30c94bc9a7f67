# SPDX-License-Identifier: Apache-2.0
"""What does rendering leave on this host?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cloudinit.datasource import Fit, measure_all


@dataclass(frozen=True)
class RenderedPayload:
    """What a machine, or each machine of a pool, boots from, on disk."""

    name: str
    role: str
    directory: Path
    size: int
    """Of the user-data, uncompressed, in bytes."""
    size_gzip: int

    @property
    def user_data(self) -> Path:
        return self.directory / "user-data"

    @property
    def fits(self) -> tuple[Fit, ...]:
        """How it stands against every platform's limit."""
        return measure_all(self.size_gzip)


@dataclass(frozen=True)
class RenderedNode(RenderedPayload):
    """One machine's payload, with all that is its own."""

    mac: str
    address: str
    """Without prefix length; in dual stack both, joined by a comma."""

    @property
    def meta_data(self) -> Path:
        return self.directory / "meta-data"

    @property
    def network_config(self) -> Path:
        return self.directory / "network-config"

    @property
    def seed_iso(self) -> Path:
        return self.directory / "seed.iso"


@dataclass(frozen=True)
class RenderedPool(RenderedPayload):
    """The payload of all machines of a pool: user-data alone."""

    names: str
    """Which names its machines may have."""
    addresses: str
    token_expires: datetime


@dataclass(frozen=True)
class RenderedCluster:
    """All machines of a cluster, and the way into it."""

    nodes: tuple[RenderedNode, ...]
    pools: tuple[RenderedPool, ...]
    admin_kubeconfig: Path
    state_directory: Path
    created_state: bool
    first_to_expire: str
    days_left: int
