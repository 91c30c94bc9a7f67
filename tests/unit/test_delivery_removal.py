# SPDX-License-Identifier: Apache-2.0
"""Is what was made removed or forgotten when that is asked for, and nothing else?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.operations.journal import Entry
from pipeline.targets.platform import Instance, TransientError
from tests.support.delivery import IMAGE, delivery, journal_of, specs
from tests.support.platform import SimulatedPlatform


def test_a_disk_that_was_in_use_is_removed_by_destroy_alone(tmp_path: Path) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    left = Instance("vol-1", "lab", "lab-0", "p1", "failed", lone_disks=("vol-1",))
    platform.machines = {left.id: left}

    with pytest.raises(KubekilnError, match="of lab-0 only a disk is left.*: vol-1") as raised:
        to.boot(specs(tmp_path, 2), IMAGE)

    hint = str(raised.value.problems[0].hint)
    assert "kubekiln destroy --target cloud --cluster lab lab-0" in hint
    assert "docs/etcd-disk.md" in hint
    assert (platform.machines, platform.made) == ({"vol-1": left}, [])
    assert to.destroy("lab", ["lab-0"]) == ["lab-0"]
    to.boot(specs(tmp_path, 2), IMAGE)
    assert sorted(platform.made) == ["lab-0", "lab-1"]


def test_a_disk_that_is_alone_only_once_its_machine_is_gone_stays_too(tmp_path: Path) -> None:
    class EndingPlatform(SimulatedPlatform):
        def delete(self, instance: Instance) -> None:
            super().delete(instance)
            self.machines["vol-1"] = replace(instance, id="vol-1", lone_disks=("vol-1",))
            raise TransientError("the connection was cut")

    platform = EndingPlatform()
    ending = Instance("i-1", "lab", "lab-0", "p1", "failed", detail="shutting-down")
    platform.machines = {ending.id: ending}

    with pytest.raises(KubekilnError, match="of lab-0 only a disk is left"):
        delivery(tmp_path, platform).boot(specs(tmp_path, 1), IMAGE)

    assert (list(platform.machines), platform.made) == (["vol-1"], [])


def test_a_machine_that_nobody_heard_of_is_waited_for_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, late = SimulatedPlatform(), Instance("i-late", "lab", "lab-0", "p1", "starting")
    journal_of(tmp_path).write(Entry("creating", "lab-0", "p1"))
    looks: list[str | None] = []

    def list_late(cluster: str | None = None) -> Sequence[Instance]:
        looks.append(cluster)
        if len(looks) == 3:
            platform.machines[late.id] = late
        return list(platform.machines.values())

    monkeypatch.setattr(platform, "list_instances", list_late)

    assert delivery(tmp_path, platform).destroy("lab") == ["lab-0"]
    assert platform.machines == {}


def test_one_that_was_refused_is_not_waited_for(tmp_path: Path) -> None:
    platform = SimulatedPlatform(broken={"lab-0": "quota exceeded"})
    with pytest.raises(KubekilnError):
        delivery(tmp_path, platform).boot(specs(tmp_path, 1), IMAGE)
    asked = platform.asked

    assert delivery(tmp_path, platform).destroy("lab") == []

    assert platform.asked == asked + 1, "looked once"


def test_some_are_removed_and_the_journal_stays(tmp_path: Path) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    to.boot(specs(tmp_path, 3), IMAGE)

    assert to.destroy("lab", ["lab-1"]) == ["lab-1"]

    assert sorted(i.node for i in platform.machines.values()) == ["lab-0", "lab-2"]
    assert journal_of(tmp_path).last()["lab-1"].event == "deleted"


def test_user_data_is_forgotten_of_machines_that_have_their_role(tmp_path: Path) -> None:
    platform = SimulatedPlatform(faults=0.05)
    to = delivery(tmp_path, platform)
    to.boot(specs(tmp_path, 20), IMAGE)

    assert sorted(to.forget("lab", ["lab-1", "lab-7"])) == ["lab-1", "lab-7"]
    assert len(platform.user_data) == 18
    assert len(to.forget("lab")) == 20
    assert platform.user_data == {}
    assert len(platform.machines) == 20


def test_user_data_that_is_still_needed_is_not_forgotten(tmp_path: Path) -> None:
    platform = SimulatedPlatform(phases=["userdata"])
    to = delivery(tmp_path, platform)
    to.boot(specs(tmp_path, 2), IMAGE)

    with pytest.raises(KubekilnError, match="has not taken up its role") as raised:
        to.forget("lab")

    assert [problem.what[:5] for problem in raised.value.problems] == ["lab-0", "lab-1"]
    assert len(platform.user_data) == 2
    with pytest.raises(KubekilnError, match="no machine lab-9 of lab"):
        to.forget("lab", ["lab-9"])


def test_a_platform_that_says_it_removed_what_stays_is_not_asked_for_ever(tmp_path: Path) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    to.boot(specs(tmp_path, 2), IMAGE)
    asked: list[str] = []
    platform.delete = lambda instance: asked.append(instance.id)  # type: ignore[method-assign]

    with pytest.raises(KubekilnError, match="still there after it was removed: i-1, i-2"):
        to.destroy("lab")

    assert 2 <= len(asked) <= 10
