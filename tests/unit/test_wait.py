# SPDX-License-Identifier: Apache-2.0
"""Does waiting for a cluster believe only the API, and say why a boot failed?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubekiln.errors import CommandFailed, KubekilnError
from kubekiln.operations import wait
from kubekiln.operations.wait import Boot, ready_names
from pipeline.targets.machine import ConsoleReport, Machine, Phase, State
from tests.support.machines import make_machine
from tests.support.target import FakeTarget


def boot_of(target: FakeTarget, machine: Machine, answers: Iterator[frozenset[str]]) -> Boot:
    return Boot(target, [machine], lambda: next(answers), frozenset({machine.name}))


def quiet(_text: str) -> None: ...


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


def test_what_a_machine_calls_failing_is_said_once_while_it_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "kubekiln-kubeadm.service is failed: Mem: less than wanted"
    phases = (Phase("containerd", 3.0), Phase("ready", 9.0))
    report = ConsoleReport(phases, failing=(words,), complete=True)
    target = FakeTarget(state="running", report=report)
    watch = boot_of(target, make_machine(tmp_path), iter([frozenset({"lab-1"})]))

    for _ in range(2):
        watch.wait(timeout_s=30, note=quiet)

    assert capsys.readouterr().err.count(f"lab-1: {words}") == 1


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
