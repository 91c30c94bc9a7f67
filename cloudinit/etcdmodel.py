# SPDX-License-Identifier: Apache-2.0
"""What may a cluster's configuration say about its databases?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kubekiln.config import Model, invalid


class Etcd(Model):
    """The cluster's database."""

    quota_mib: int | None = Field(default=None, ge=64, le=16384)
    """Size at which etcd refuses writes, in MiB; by the cluster's size if not given: 4096, or 8192
    for more than 1,000 nodes. etcd's own default of 2048 is soon met by events."""
    events: Literal["auto"] | bool = "auto"
    """Whether events, most of all writes and worth the least, have an etcd of their own on the same
    machines; `auto`: for more than 500 nodes. Those there are stay behind when it changes."""
    events_quota_mib: int = Field(default=4096, ge=64, le=16384)
    """Size at which the etcd of events refuses writes, in MiB; events are gone after an hour."""
    heartbeat_ms: int = Field(default=100, ge=10, le=10000)
    """Pause between two signs of life of its leader, in ms: about the round-trip time between
    members where they are far from each other."""
    election_ms: int = Field(default=1000, ge=50, le=50000)
    """Silence in ms after which members elect another leader: ten round-trip times or more. Twice
    as long, and 2 s at least, API servers and balancers wait until they take a master that can't
    read its database out of service."""

    disk_gib: int | None = Field(default=None, ge=1, le=16384, examples=[10])
    """Size in GiB of a disk that the database has to itself on each of its machines, where a target
    makes them; none if not given. Elsewhere: attach an empty disk (docs/etcd-disk.md)."""

    @model_validator(mode="after")
    def _leader_has_time(self) -> Etcd:
        if self.election_ms < 5 * self.heartbeat_ms:
            raise invalid(
                f"election_ms {self.election_ms} is less than five times heartbeat_ms "
                f"{self.heartbeat_ms}: etcd would not start",
                hint=f"give at least {5 * self.heartbeat_ms}, better {10 * self.heartbeat_ms}",
                at=("election_ms",),
            )
        return self
