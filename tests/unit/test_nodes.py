# SPDX-License-Identifier: Apache-2.0
"""When does `up` tell a cluster which nodes it has?"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.operations import nodes
from kubekiln.paths import Project
from pipeline.targets.machine import State
from pipeline.targets.record import record_of, write_record
from tests.support.clusters import make_cluster
from tests.support.machines import make_machine
from tests.support.target import FakeTarget

OLD, NEW = "lab-1", "lab-2"


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clusters that were told."""
    told: list[str] = []

    def apply(_: Project, cluster: object) -> str:
        told.append(str(cluster))
        return "configmap/kubekiln-nodes serverside-applied"

    monkeypatch.setattr(nodes, "apply_nodes", apply)
    return told


def announce(tmp_path: Path, *, made: tuple[str, ...], state: State) -> None:
    machines = [make_machine(tmp_path / n, name=n, run_dir=tmp_path / n) for n in (OLD, NEW)]
    for machine in machines:
        if machine.name in made:
            write_record(record_of("fake", machine))
    nodes.announce_new(Project(tmp_path), make_cluster(), FakeTarget(state=state), machines)


@pytest.mark.parametrize(
    ("made", "state", "is_told"),
    [
        ((OLD,), "running", True),
        ((), "absent", False),
        ((OLD,), "stopped", False),
        ((OLD, NEW), "running", False),
    ],
    ids=["one more", "the first boot", "none runs", "all are there"],
)
def test_only_a_cluster_that_runs_is_told_of_nodes_that_are_new(
    tmp_path: Path, applied: list[str], made: tuple[str, ...], state: State, is_told: bool
) -> None:
    announce(tmp_path, made=made, state=state)

    assert bool(applied) == is_told


def test_masters_that_do_not_answer_are_a_note_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> str:
        raise KubekilnError("connection refused")

    monkeypatch.setattr(nodes, "apply_nodes", refuse)

    announce(tmp_path, made=(OLD,), state="running")

    said = capsys.readouterr().err
    assert "`kubekiln cluster nodes lab --apply` does it" in said
    assert "connection refused" in said
