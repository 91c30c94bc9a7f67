# SPDX-License-Identifier: Apache-2.0
"""Is a node that no platform can make told before it is tried?"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.channel import DatasourceName
from kubekiln.errors import KubekilnError
from pipeline.targets.platform import DiskImage, InstanceSpec, TransientError
from pipeline.targets.unfit import more_cards, raised_by, smaller_disk, too_large


@pytest.fixture
def spec(tmp_path: Path) -> InstanceSpec:
    """A node whose user-data nothing makes smaller."""
    noise = b"#cloud-config\n# " + random.Random(1).randbytes(70_000)
    for name, content in (("user-data", noise), ("meta-data", b"{}"), ("network-config", b"{}")):
        (tmp_path / name).write_bytes(content)
    return InstanceSpec(
        cluster="lab", node="lab-1", role="worker", seed_dir=tmp_path, seed_iso=tmp_path / "iso",
        payload="p", macs=("a", "b"), addresses=(), cpus=1, memory_mib=1024, disk_gib=8,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("datasource", "said"),
    [
        ("ec2", r"lab-1: user-data.gz is 70,\d+ bytes \(gzip\), Amazon EC2 takes 16,384"),
        ("openstack", r"lab-1: .* is 93,\d+ bytes \(gzip\+base64\), OpenStack Nova takes 65,535"),
        ("nocloud", None),
    ],
)
def test_a_payload_is_held_against_its_channel(
    spec: InstanceSpec, datasource: DatasourceName, said: str | None
) -> None:
    found = list(too_large(spec, datasource))

    assert len(found) == (1 if said else 0)
    for problem in found:
        with pytest.raises(KubekilnError, match=said):
            raise KubekilnError.of([problem])
        assert "cluster explain" in str(problem.hint)


@pytest.mark.parametrize(("possible", "count"), [(1, 1), (2, 0)])
def test_each_card_needs_a_place(spec: InstanceSpec, possible: int, count: int) -> None:
    assert len(list(more_cards(spec, possible))) == count


@pytest.mark.parametrize(("gib", "count"), [(8, 1), (9, 0)])
def test_a_disk_is_at_least_the_images(spec: InstanceSpec, gib: int, count: int) -> None:
    image = DiskImage("test", "ab" * 32, spec.seed_dir, "raw", "cd" * 32, (8 << 30) + 1)

    found = list(smaller_disk(replace(spec, disk_gib=gib), image))

    assert [problem.hint for problem in found] == ["give the node `disk_gib: 9` or more"] * count


def test_what_may_pass_is_no_refusal() -> None:
    def throttled() -> None:
        raise TransientError("slow down")

    def refused() -> None:
        raise KubekilnError("no such size")

    with pytest.raises(TransientError):
        list(raised_by(throttled))
    assert [problem.what for problem in raised_by(refused)] == ["no such size"]
