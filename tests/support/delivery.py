# SPDX-License-Identifier: Apache-2.0
"""How do tests deliver to the simulated platform?"""

from __future__ import annotations

from pathlib import Path

from kubekiln.operations.delivery import Delivery
from kubekiln.operations.journal import Journal
from kubekiln.operations.retrying import Patience
from kubekiln.paths import Project
from pipeline.targets.platform import InstanceSpec, RemoteImage
from tests.support.platform import SimulatedPlatform

IMAGE = RemoteImage("img-0", "kubekiln-debian-13-0123456789ab")


def patience() -> Patience:
    return Patience(first_wait_s=0.001, longest_wait_s=0.01)


def delivery(tmp_path: Path, platform: SimulatedPlatform, *, parallel: int = 8) -> Delivery:
    return Delivery("cloud", platform, Project(tmp_path), parallel, patience())


def specs(tmp_path: Path, count: int, *, payload: str = "p1") -> list[InstanceSpec]:
    (tmp_path / "user-data").write_text("#cloud-config\n")
    return [
        InstanceSpec(
            cluster="lab", node=f"lab-{i}", role="worker", seed_dir=tmp_path,
            seed_iso=tmp_path / "seed.iso", payload=payload, macs=(), addresses=(), cpus=2,
            memory_mib=2048, disk_gib=20,
        )
        for i in range(count)
    ]  # fmt: skip


def journal_of(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state/lab/target-cloud.journal")
