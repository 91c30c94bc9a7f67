# SPDX-License-Identifier: Apache-2.0
"""Does `up` undo what it began, keep what was there, and believe only the API?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cloudinit.rules import load_cluster
from kubekiln.config import Source
from kubekiln.errors import EXIT_USAGE, CommandFailed, ConfigError, KubekilnError
from kubekiln.operations import kubectl, placement, undo, up, wait
from kubekiln.operations.clusters import changing_machines, find_kubeconfig, which_cluster
from kubekiln.operations.down import take_down
from kubekiln.operations.kubectl import admin_of
from kubekiln.operations.wait import Boot, ready_names
from kubekiln.paths import Project
from pipeline.targets import qemu, registry
from pipeline.targets.machine import ConsoleReport, Machine, Phase, State
from pipeline.targets.record import list_records, read_record, record_of, write_record
from tests.support.clusters import cluster_data, make_cluster, make_project, write_cluster
from tests.support.machines import make_machine
from tests.support.target import FakeTarget
from tests.support.waiting import until


def boot_of(target: FakeTarget, machine: Machine, answers: Iterator[frozenset[str]]) -> Boot:
    return Boot(target, [machine], lambda: next(answers), frozenset({machine.name}))


def quiet(_text: str) -> None: ...


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


def test_a_machine_keeps_the_seed_it_was_made_with(tmp_path: Path) -> None:
    target, machine = FakeTarget(), make_machine(tmp_path)
    up.boot(target, "fake", machine, [])

    (machine.seed_dir / "user-data").write_text("rendered anew\n")

    record = read_record(machine.run_dir)
    assert record is not None
    assert (record.machine.seed_dir / "user-data").read_text() == "user-data\n"
    assert record.machine.seed_dir.stat().st_mode & 0o777 == 0o700
    assert up.differences(record, record_of("fake", machine)) == ["user-data"]


def test_a_machine_that_is_there_stays_as_it_was_made(tmp_path: Path) -> None:
    target, machine = FakeTarget(), make_machine(tmp_path)
    up.boot(target, "fake", machine, [])
    changed = replace(machine, image=replace(machine.image, digest="d2"), cpus=8)

    kept = up.keep_or_make(changed, "fake")

    assert (kept.image.digest, kept.cpus) == ("d1", 2)


def test_a_cluster_is_up_when_the_api_says_so(tmp_path: Path) -> None:
    machine = make_machine(tmp_path)
    answers = iter([frozenset(), frozenset({"lab-1"})])
    watch = boot_of(FakeTarget(state="running"), machine, answers)

    watch.wait(timeout_s=30, note=quiet)

    assert next(answers, "asked twice") == "asked twice"


@pytest.mark.parametrize(
    ("state", "report", "said"),
    [
        pytest.param("running", ConsoleReport(refusals=("ca.crt: sha256 differs",)),
                     "refuses its role: ca.crt: sha256 differs", id="gate-closed"),
        pytest.param("stopped", ConsoleReport(), "has ended", id="machine-gone"),
        pytest.param("running", ConsoleReport((Phase("etcd", 3.0),), failing=("api failed",)),
                     "not Ready after .*lab-1: etcd.*; api failed", id="too-late"),
    ],
)  # fmt: skip
def test_a_boot_that_fails_says_why_and_shows_the_console(
    tmp_path: Path, state: State, report: ConsoleReport, said: str
) -> None:
    machine = make_machine(tmp_path)
    machine.run_dir.mkdir(parents=True)
    machine.console_log.write_text("the last words\n")
    watch = boot_of(FakeTarget(state=state, report=report), machine, iter(()))

    with pytest.raises(KubekilnError, match=said) as failed:
        watch.wait(timeout_s=0, note=quiet)

    assert "| the last words" in str(failed.value)
    assert str(machine.console_log) in str(failed.value)


def test_several_machines_are_refused_where_they_would_not_reach_each_other(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    nodes = [
        {"name": "m", "role": "master", "address": "10.80.0.11"},
        {"name": "w", "role": "worker", "address": "10.80.0.12"},
    ]
    path = write_cluster(project, cluster_data(nodes=nodes))
    two = load_cluster("lab", project)

    with pytest.raises(ConfigError, match="lab has 2 machines") as error:
        placement.check_target(FakeTarget(joins_machines=False), project, two, path)

    (problem,) = error.value.problems
    assert "--target nspawn" in str(problem.hint)
    assert problem.where == Source(path).where(("nodes",))
    placement.check_target(FakeTarget(), project, two, path)
    placement.check_target(FakeTarget(joins_machines=False), project, make_cluster(), path)


def test_a_cluster_that_waits_for_a_clouds_meta_data_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    network = {"addressing": "dhcp"}
    path = write_cluster(project, cluster_data(datasource="openstack", network=network))
    cloudy = load_cluster("lab", project)

    with pytest.raises(ConfigError, match="datasource openstack; target fake attaches a") as error:
        placement.check_target(FakeTarget(), project, cloudy, path)

    assert error.value.exit_code == EXIT_USAGE
    keys = (("network", "addressing"), ("datasource",))
    assert [p.where for p in error.value.problems] == [Source(path).where(key) for key in keys]


def test_a_host_that_lacks_a_targets_tool_is_bad_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "find_tool", lambda _: None)

    with pytest.raises(KubekilnError, match="'qemu-img' not found") as error:
        placement.check_target(
            qemu.QemuTarget(), Project(tmp_path), make_cluster(), tmp_path / "lab.yaml"
        )

    assert error.value.exit_code == EXIT_USAGE


def test_only_nodes_whose_condition_is_true_are_ready() -> None:
    def node(name: str, status: str) -> dict[str, object]:
        conditions = [
            {"type": "DiskPressure", "status": "False"},
            {"type": "Ready", "status": status},
        ]
        return {"metadata": {"name": name}, "status": {"conditions": conditions}}

    nodes = {"items": [node("a", "True"), node("b", "False"), node("c", "Unknown"),
                       {"metadata": {"name": "d"}}]}  # fmt: skip

    assert ready_names(nodes) == {"a"}
    assert ready_names({}) == frozenset()


def test_an_api_that_keeps_kubectl_waiting_is_one_that_does_not_answer_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(*_: object, **__: object) -> None:
        raise CommandFailed("kubectl failed: not finished after 30 s")

    monkeypatch.setattr(wait, "run", late)

    assert wait.ask_ready_nodes(Path("kubectl"), Path("admin.kubeconfig")) == frozenset()


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    record = record_of("nspawn", make_machine(tmp_path))

    write_record(record)

    assert list_records(tmp_path / "machines") == [record]
    # And what another version took down besides is nothing to this one.
    path = record.machine.run_dir / "machine.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"machine": said["machine"] | {"colour": "blue"}}))
    assert list_records(tmp_path / "machines") == [record]
    assert list_records(tmp_path / "machines", "other") == []


def test_a_record_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text('{"schema": 9}')

    with pytest.raises(KubekilnError, match="schema 9"):
        read_record(tmp_path)


def test_down_removes_the_machines_of_one_cluster_by_their_own_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, project = FakeTarget(), Project(tmp_path)
    monkeypatch.setattr(registry, "TARGETS", {"fake": lambda: target})
    for name in ("lab", "other"):
        run_dir = project.machines_dir / name / f"{name}-1"
        machine = make_machine(tmp_path, cluster=name, name=f"{name}-1", run_dir=run_dir)
        write_record(record_of("fake", machine))

    removed = take_down(project, "lab")

    assert removed == ["lab/lab-1"]
    assert target.done == ["destroy lab-1"]
    assert take_down(project, None) == ["other/other-1"]


def test_down_waits_for_an_up_that_boots_machines_and_removes_those_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target, project = FakeTarget(), Project(tmp_path)
    monkeypatch.setattr(registry, "TARGETS", {"fake": lambda: target})

    def boot(node: str) -> None:
        run_dir = project.machines_dir / "lab" / node
        write_record(record_of("fake", make_machine(tmp_path, name=node, run_dir=run_dir)))

    with ThreadPoolExecutor(1) as pool:
        with changing_machines(project, "lab"):
            boot("lab-1")
            removed = pool.submit(take_down, project, "lab")
            until(lambda: "waiting" in capsys.readouterr().err, what="a wait", timeout_s=10)
            boot("lab-2")
            assert target.done == []

        assert removed.result() == ["lab/lab-1", "lab/lab-2"]


def test_the_only_cluster_needs_no_naming(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("a", "b"):
        with pytest.raises(KubekilnError, match="no cluster"):
            find_kubeconfig(project, name, usage="…")
        path = project.state_dir / name / "admin.kubeconfig"
        path.parent.mkdir(parents=True)
        path.touch()
        if name == "a":
            assert find_kubeconfig(project, None, usage="…") == path

    assert find_kubeconfig(project, "b", usage="…").parent.name == "b"
    with pytest.raises(KubekilnError, match="which cluster"):
        find_kubeconfig(project, None, usage="…")


def test_a_cluster_whose_config_lies_elsewhere_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path)
    config = tmp_path / "elsewhere" / "mine.yaml"
    config.parent.mkdir()
    config.write_bytes(project.config_path("clusters", "solo").read_bytes())
    made = load_cluster(str(config), project)
    kubeconfig = project.state_dir / made.name / "admin.kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.touch()
    monkeypatch.setattr(kubectl, "pinned_kubectl", lambda *_, **given: Path(given["version"]))

    admin = admin_of(project, str(config), usage="…")

    assert (admin.cluster, admin.kubeconfig) == (made.name, kubeconfig)
    assert admin.kubectl == Path(made.kubernetes)
    with pytest.raises(KubekilnError, match="no such file"):
        admin_of(project, str(config.with_name("other.yaml")), usage="…")


def test_of_several_clusters_the_one_with_machines_is_meant(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("a", "b"):
        path = project.state_dir / name / "admin.kubeconfig"
        path.parent.mkdir(parents=True)
        path.touch()
    (project.machines_dir / "b" / "b-1").mkdir(parents=True)
    (project.machines_dir / "b" / "b-1" / "machine.json").touch()

    assert find_kubeconfig(project, None, usage="…").parent.name == "b"
    assert which_cluster(project, None, usage="…") == "b"

    (project.machines_dir / "a" / "a-1").mkdir(parents=True)
    (project.machines_dir / "a" / "a-1" / "machine.json").touch()
    with pytest.raises(KubekilnError, match="which cluster") as error:
        which_cluster(project, None, usage="kubekiln down CLUSTER")
    assert "kubekiln down CLUSTER, of: a, b" in str(error.value)


def test_up_goes_on_with_the_target_that_the_machines_have(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert up.choose_target(project, "lab", None) == "qemu"

    run_dir = project.machines_dir / "lab" / "lab-1"
    write_record(record_of("nspawn", make_machine(tmp_path, run_dir=run_dir)))

    assert up.choose_target(project, "lab", None) == "nspawn"
    assert up.choose_target(project, "lab", "qemu") == "qemu"
    assert up.choose_target(project, "other", None) == "qemu"
