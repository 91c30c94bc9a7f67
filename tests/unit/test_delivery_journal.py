# SPDX-License-Identifier: Apache-2.0
"""Does the journal of a delivery tell the next run what may be there, and no secret?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.operations.down import forgettable
from kubekiln.operations.journal import Entry
from kubekiln.paths import Project
from pipeline.targets.platform import Instance, InstanceSpec, RemoteImage, TransientError
from tests.support.delivery import IMAGE, delivery, journal_of, specs
from tests.support.platform import SimulatedPlatform


def test_an_interrupt_asks_for_nothing_more_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimulatedPlatform(latency_s=0.01)
    interrupted = delivery(tmp_path, platform, parallel=2)
    create = platform.create

    def interrupted_create(spec: InstanceSpec, image: RemoteImage) -> Instance:
        instance = create(spec, image)
        if spec.node == "lab-5":
            raise KeyboardInterrupt
        return instance

    monkeypatch.setattr(platform, "create", interrupted_create)
    with pytest.raises(KeyboardInterrupt):
        interrupted.boot(specs(tmp_path, 40), IMAGE)
    some = len(platform.made)
    assert 6 <= some < 40
    assert [entry.node for entry in journal_of(tmp_path).unfinished()] == ["lab-5"]

    monkeypatch.undo()
    delivery(tmp_path, platform).boot(specs(tmp_path, 40), IMAGE)

    assert len(platform.made) == len(set(platform.made)) == 40
    assert journal_of(tmp_path).unfinished() == []


@pytest.mark.parametrize("runs", [1, 2])
def test_a_machine_that_was_never_seen_to_run_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    """Its making was begun and not heard of; then the platform says that it can't be."""
    platform, create = SimulatedPlatform(), SimulatedPlatform.create
    asked: list[str] = []

    def create_in_vain(spec: InstanceSpec, image: RemoteImage) -> Instance:
        asked.append(spec.node)
        if len(asked) > runs:
            raise KubekilnError("no host has room for it")
        made = create(platform, spec, image) if not platform.machines else None
        if made is not None:
            platform.machines[made.id] = replace(made, state="starting")
        raise KeyboardInterrupt if runs == 2 and made is not None else TransientError("cut off")

    monkeypatch.setattr(platform, "create", create_in_vain)
    to = delivery(tmp_path, platform)
    if runs == 2:
        with pytest.raises(KeyboardInterrupt):
            to.boot(specs(tmp_path, 1), IMAGE)
        to = delivery(tmp_path, platform)

    with pytest.raises(KubekilnError, match="no host has room for it"):
        to.boot(specs(tmp_path, 1), IMAGE)

    assert platform.made == ["lab-0"]
    assert [entry.event for entry in journal_of(tmp_path).unfinished()] == ["creating"]


def test_a_machine_that_can_not_be_started_is_still_there_by_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimulatedPlatform()
    platform.machines["i-1"] = Instance("i-1", "lab", "lab-0", "p1", "stopped")

    def refuse(_instance: Instance) -> None:
        raise KubekilnError("it is in state ERROR")

    monkeypatch.setattr(platform, "start", refuse)
    profile = Project(tmp_path).profile_path("lab")
    profile.parent.mkdir(parents=True)
    profile.write_text("name: lab\n")

    with pytest.raises(KubekilnError, match="it is in state ERROR"):
        delivery(tmp_path, platform).boot(specs(tmp_path, 1), IMAGE)

    assert journal_of(tmp_path).last() == {"lab-0": Entry("created", "lab-0", "p1", "i-1")}
    with pytest.raises(ConfigError, match="has machines on target cloud: lab-0"):
        forgettable(Project(tmp_path), "lab")


@pytest.mark.parametrize(("answers", "event"), [(True, "refused"), (False, "creating")])
def test_a_node_counts_as_refused_only_where_the_platform_says_that_nothing_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool, event: str
) -> None:
    platform = SimulatedPlatform(broken={"lab-0": "quota exceeded"})
    looks: list[str | None] = []

    def list_once(cluster: str | None = None) -> Sequence[Instance]:
        looks.append(cluster)
        if len(looks) > 1 and not answers:
            raise KubekilnError("the credentials have expired")
        return []

    monkeypatch.setattr(platform, "list_instances", list_once)

    with pytest.raises(KubekilnError, match="quota exceeded"):
        delivery(tmp_path, platform).boot(specs(tmp_path, 1), IMAGE)

    assert journal_of(tmp_path).last()["lab-0"].event == event


def test_a_line_of_the_journal_that_was_cut_off_counts_as_not_written(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    journal.write(Entry("created", "lab-0", "p1", "i-1"))
    path = tmp_path / "state/lab/target-cloud.journal"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("a") as out:
        out.write('{"time": "2026-')

    assert journal.last() == {"lab-0": Entry("created", "lab-0", "p1", "i-1")}
    journal.write(Entry("deleting", "lab-0", instance="i-1"))
    assert [entry.event for entry in journal.unfinished()] == ["deleting"]

    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(KubekilnError, match="cannot make sense of a line") as raised:
        journal.last()
    assert raised.value.problems[0].where == f"{path}:1"


def test_the_journal_holds_no_secret(tmp_path: Path) -> None:
    delivery(tmp_path, SimulatedPlatform()).boot(specs(tmp_path, 1), IMAGE)

    lines = (tmp_path / "state/lab/target-cloud.journal").read_text().splitlines()

    assert [json.loads(line).keys() - {"time"} for line in lines] == [
        {"event", "node", "payload"}, {"event", "node", "payload", "instance"},
    ]  # fmt: skip
