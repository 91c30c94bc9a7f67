# SPDX-License-Identifier: Apache-2.0
"""Does `down` remove the machines of one cluster, those too that are being booted?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kubekiln.operations.clusters import changing_machines
from kubekiln.operations.down import take_down
from kubekiln.paths import Project
from pipeline.targets import registry
from pipeline.targets.record import record_of, write_record
from tests.support.machines import make_machine
from tests.support.target import FakeTarget
from tests.support.waiting import until


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
