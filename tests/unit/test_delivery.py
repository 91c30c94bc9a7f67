# SPDX-License-Identifier: Apache-2.0
"""Are machines made once, and all of them, whatever a platform does meanwhile?"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError, Problem, StorageError
from kubekiln.files import locked, sha256_file
from kubekiln.operations.retrying import Patience
from pipeline.targets.platform import DiskImage, Instance, TransientError
from tests.support.delivery import IMAGE, delivery, patience, specs
from tests.support.platform import SimulatedPlatform


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


def test_one_that_fails_stops_no_other_and_all_failures_are_said(tmp_path: Path) -> None:
    broken = {"lab-1": "no host has 64 CPUs", "lab-3": "quota of addresses exceeded"}
    platform = SimulatedPlatform(broken=broken)

    with pytest.raises(KubekilnError) as raised:
        delivery(tmp_path, platform).boot(specs(tmp_path, 5), IMAGE)

    said = [problem.what for problem in raised.value.problems]
    assert said == ["lab-1: no host has 64 CPUs", "lab-3: quota of addresses exceeded"]
    assert sorted(platform.made) == ["lab-0", "lab-2", "lab-4"]


def test_a_machine_that_is_there_and_starting_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = SimulatedPlatform()
    to = delivery(tmp_path, platform)
    (made,) = to.boot(specs(tmp_path, 1), IMAGE)
    platform.machines[made.id] = replace(made, state="starting")
    monkeypatch.setattr(platform, "create", lambda *_: pytest.fail("made again"))

    assert [one.state for one in to.boot(specs(tmp_path, 1), IMAGE)] == ["starting"]


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
