# SPDX-License-Identifier: Apache-2.0
"""Does an `up` that fails undo what it began, and nothing else?"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.operations import undo, up
from kubekiln.paths import Project
from pipeline.targets.machine import Machine
from tests.support.machines import make_machine
from tests.support.target import FakeTarget


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KubekilnError("not Ready")])
def test_what_was_booted_is_removed_if_the_cluster_does_not_get_up(
    tmp_path: Path, error: BaseException
) -> None:
    target, machine = FakeTarget(), make_machine(tmp_path)

    with (
        pytest.raises(type(error)),
        undo.undone_unless_up(target, [machine], project=Project(tmp_path), keep=False) as booted,
    ):
        up.boot(target, "fake", machine, booted)
        raise error

    assert target.done == ["boot lab-1", "destroy lab-1"]


def test_a_machine_that_had_a_disk_is_stopped_and_not_removed(tmp_path: Path) -> None:
    target, machine = FakeTarget(state="stopped"), make_machine(tmp_path)

    with (
        pytest.raises(KeyboardInterrupt),
        undo.undone_unless_up(target, [machine], project=Project(tmp_path), keep=False) as booted,
    ):
        up.boot(target, "fake", machine, booted)
        raise KeyboardInterrupt

    assert target.done == ["boot lab-1", "stop lab-1"]


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), KubekilnError("not Ready")])
@pytest.mark.parametrize("failure", [KubekilnError("stuck"), OSError("stuck")])
def test_a_machine_that_cannot_be_removed_leaves_no_other_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: BaseException, failure: Exception
) -> None:
    class Stuck(FakeTarget):
        def destroy(self, machine: Machine) -> None:
            super().destroy(machine)
            if machine.name == "lab-2":
                raise failure

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    target, machines = Stuck(), [make_machine(tmp_path), make_machine(tmp_path, name="lab-2")]
    monkeypatch.setattr(undo.shutil, "copyfile", full)
    machines[0].run_dir.mkdir(parents=True)
    machines[0].console_log.write_text("Kernel panic\n")

    with (
        pytest.raises(KubekilnError, match="stuck") as error,
        undo.undone_unless_up(target, machines, project=Project(tmp_path), keep=False) as booted,
    ):
        booted += machines
        raise cause

    assert target.done == ["destroy lab-2", "destroy lab-1"]
    assert ("not Ready" in str(error.value)) == isinstance(cause, KubekilnError)


def test_a_machine_that_ran_before_is_left_alone(tmp_path: Path) -> None:
    target, machine = FakeTarget(state="running"), make_machine(tmp_path)

    with (
        pytest.raises(KeyboardInterrupt),
        undo.undone_unless_up(target, [machine], project=Project(tmp_path), keep=False) as booted,
    ):
        up.boot(target, "fake", machine, booted)
        raise KeyboardInterrupt

    assert target.done == []


def test_keep_leaves_a_machine_that_failed_but_not_one_that_was_interrupted(tmp_path: Path) -> None:
    done = []
    for error in (KubekilnError("not Ready"), KeyboardInterrupt()):
        target, machine = FakeTarget(), make_machine(tmp_path)
        with (
            pytest.raises(type(error)),
            undo.undone_unless_up(
                target, [machine], project=Project(tmp_path), keep=True
            ) as booted,
        ):
            up.boot(target, "fake", machine, booted)
            raise error
        done.append(target.done[-1])

    assert done == ["boot lab-1", "destroy lab-1"]


def test_the_console_of_a_removed_machine_is_kept(tmp_path: Path) -> None:
    machine = make_machine(tmp_path)
    machine.run_dir.mkdir(parents=True)
    machine.console_log.write_text("Kernel panic\n")

    undo.keep_console(machine, Project(tmp_path))

    assert (tmp_path / "build/logs/lab-lab-1-console.log").read_text() == "Kernel panic\n"
