# SPDX-License-Identifier: Apache-2.0
"""Does `up` keep what was there, as it was made?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.operations import up
from kubekiln.paths import Project
from pipeline.targets.record import list_records, read_record, record_of, write_record
from tests.support.machines import make_machine
from tests.support.target import FakeTarget


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


def test_up_goes_on_with_the_target_that_the_machines_have(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert up.choose_target(project, "lab", None) == "qemu"

    run_dir = project.machines_dir / "lab" / "lab-1"
    write_record(record_of("nspawn", make_machine(tmp_path, run_dir=run_dir)))

    assert up.choose_target(project, "lab", None) == "nspawn"
    assert up.choose_target(project, "lab", "qemu") == "qemu"
    assert up.choose_target(project, "other", None) == "qemu"
