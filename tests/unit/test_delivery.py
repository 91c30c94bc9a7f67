# SPDX-License-Identifier: Apache-2.0
"""Are machines made once, and all of them, whatever a platform does meanwhile?"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import ConfigError, KubekilnError, Problem, StorageError
from kubekiln.files import locked, sha256_file
from kubekiln.operations.delivery import Delivery
from kubekiln.operations.down import forgettable
from kubekiln.operations.journal import Entry, Journal
from kubekiln.operations.retrying import Patience
from kubekiln.paths import Project
from pipeline.targets.platform import (
    DiskImage,
    Instance,
    InstanceSpec,
    RemoteImage,
    TransientError,
)
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


@pytest.mark.parametrize("seed", range(3))
def test_200_machines_with_lost_answers_are_all_there_none_twice_none_left(
    tmp_path: Path, seed: int
) -> None:
    platform = SimulatedPlatform(faults=0.05, seed=seed)
    to, wanted = delivery(tmp_path, platform), specs(tmp_path, 200)

    made = to.boot(wanted, IMAGE)

    assert sorted(i.node for i in made) == sorted(s.node for s in wanted)
    assert sorted(i.node for i in platform.machines.values()) == sorted(s.node for s in wanted)
    assert len(platform.made) == 200, "none was made twice"

    removed = to.destroy("lab")
    assert set(removed) == {s.node for s in wanted}
    assert platform.machines == {}
    assert not (tmp_path / "state/lab/target-cloud.journal").exists()


def test_no_more_are_made_at_once_than_is_allowed(tmp_path: Path) -> None:
    platform = SimulatedPlatform(latency_s=0.01)

    delivery(tmp_path, platform, parallel=3).boot(specs(tmp_path, 12), IMAGE)

    assert 1 < platform.most_at_once <= 3


def test_what_is_there_is_left_alone_and_what_lacks_is_made(tmp_path: Path) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    to.boot(specs(tmp_path, 2), IMAGE)

    to.boot(specs(tmp_path, 4), IMAGE)

    assert sorted(platform.made) == ["lab-0", "lab-1", "lab-2", "lab-3"]


def test_a_machine_that_would_be_made_otherwise_is_an_error_before_anything(tmp_path: Path) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    to.boot(specs(tmp_path, 1), IMAGE)

    with pytest.raises(KubekilnError, match="lab-0 is there, made of another image or user-data"):
        to.boot(specs(tmp_path, 3, payload="p2"), IMAGE)

    assert platform.made == ["lab-0"]


@pytest.mark.parametrize("meanwhile", ["another", "gone"])
def test_a_machine_is_not_made_of_another_rendering_than_its_tag_says(
    tmp_path: Path, meanwhile: str
) -> None:
    platform = SimulatedPlatform()
    to, (spec,) = delivery(tmp_path, platform), specs(tmp_path, 1)
    user_data = tmp_path / "user-data"
    spec = replace(spec, user_data_sha256=sha256_file(user_data))
    to.boot([spec], IMAGE)
    platform.machines.clear()
    if meanwhile == "another":
        user_data.write_text("#cloud-config\n{}\n")
    else:
        user_data.unlink()

    with pytest.raises(KubekilnError, match="lab was rendered again meanwhile, lab-0 would"):
        to.boot([spec], IMAGE)

    assert platform.made == ["lab-0"], "the first one alone"


def test_a_half_made_machine_is_made_anew_and_a_stopped_one_is_started(tmp_path: Path) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    half, stopped = (
        Instance(f"old-{state}", "lab", node, "p1", state)
        for node, state in (("lab-0", "failed"), ("lab-1", "stopped"))
    )
    platform.machines = {half.id: half, stopped.id: stopped}

    to.boot(specs(tmp_path, 2), IMAGE)

    assert platform.made == ["lab-0"]
    assert {i.node: i.state for i in platform.machines.values()} == {
        "lab-0": "running", "lab-1": "running",
    }  # fmt: skip


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


def test_one_that_fails_stops_no_other_and_all_failures_are_said(tmp_path: Path) -> None:
    broken = {"lab-1": "no host has 64 CPUs", "lab-3": "quota of addresses exceeded"}
    platform = SimulatedPlatform(broken=broken)

    with pytest.raises(KubekilnError) as raised:
        delivery(tmp_path, platform).boot(specs(tmp_path, 5), IMAGE)

    said = [problem.what for problem in raised.value.problems]
    assert said == ["lab-1: no host has 64 CPUs", "lab-3: quota of addresses exceeded"]
    assert sorted(platform.made) == ["lab-0", "lab-2", "lab-4"]


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


def test_a_machine_that_is_there_and_starting_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    (made,) = to.boot(specs(tmp_path, 1), IMAGE)
    platform.machines[made.id] = replace(made, state="starting")
    monkeypatch.setattr(platform, "create", lambda *_: pytest.fail("made again"))

    assert [one.state for one in to.boot(specs(tmp_path, 1), IMAGE)] == ["starting"]


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


def test_a_node_that_is_there_twice_is_an_error_and_one_that_failed_is_none(
    tmp_path: Path,
) -> None:
    platform = SimulatedPlatform()
    for number, state in enumerate(("running", "failed"), 1):
        one = Instance(f"i-{number}", "lab", "lab-0", "p1", state)  # type: ignore[arg-type]
        platform.machines[one.id] = one
    to = delivery(tmp_path, platform)

    assert [i.id for i in to.boot(specs(tmp_path, 1), IMAGE)] == ["i-1"]

    platform.machines["i-3"] = Instance("i-3", "lab", "lab-0", "p1", "starting")
    with pytest.raises(KubekilnError, match="lab-0 is there twice: i-1 and i-3"):
        to.boot(specs(tmp_path, 1), IMAGE)


def test_two_at_a_time_would_make_everything_twice(tmp_path: Path) -> None:
    platform = SimulatedPlatform()
    with (
        locked(tmp_path / "state/lab/target-cloud.lock"),
        pytest.raises(StorageError, match="another kubekiln"),
    ):
        delivery(tmp_path, platform).boot(specs(tmp_path, 1), IMAGE)

    assert platform.made == []


def test_some_are_removed_and_the_journal_stays(tmp_path: Path) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    to.boot(specs(tmp_path, 3), IMAGE)

    assert to.destroy("lab", ["lab-1"]) == ["lab-1"]

    assert sorted(i.node for i in platform.machines.values()) == ["lab-0", "lab-2"]
    assert journal_of(tmp_path).last()["lab-1"].event == "deleted"


def disk_image(tmp_path: Path) -> DiskImage:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"disk")
    return DiskImage("debian-13", "d" * 64, path, "qcow2", "5" * 64, 2 << 30)


def test_an_image_is_uploaded_once(tmp_path: Path) -> None:
    platform = SimulatedPlatform(faults=0.3, seed=4)
    to = delivery(tmp_path, platform)

    first, second = to.upload(disk_image(tmp_path)), to.upload(disk_image(tmp_path))

    assert first == second
    assert len(platform.images) == 1
    other = replace(disk_image(tmp_path), sha256="6" * 64)
    assert to.upload(other) != first


def test_a_platform_that_refuses_is_said_before_anything(tmp_path: Path) -> None:
    platform = SimulatedPlatform(refused=[Problem("no credentials", hint="set AWS_PROFILE")])

    with pytest.raises(KubekilnError, match="target cloud: no credentials") as raised:
        delivery(tmp_path, platform).check()

    assert raised.value.problems[0].hint == "set AWS_PROFILE"


def test_patience_ends(tmp_path: Path) -> None:
    platform = SimulatedPlatform(faults=1.0)

    with pytest.raises(KubekilnError, match="the connection was cut"):
        delivery(tmp_path, platform).boot(specs(tmp_path, 1), IMAGE)

    assert platform.asked == patience().attempts


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


def test_what_waits_to_be_tried_again_is_not_tried_after_an_interrupt() -> None:
    patient = Patience(first_wait_s=30.0, longest_wait_s=30.0)
    tried: list[bool] = []

    def fail(again: bool) -> None:
        tried.append(again)
        threading.Timer(0.05, patient.ended.set).start()
        raise TransientError("busy")

    with pytest.raises(TransientError, match="busy"):
        patient.try_to("it", fail)

    assert tried == [False]
