# SPDX-License-Identifier: Apache-2.0
"""Do the verbs for platforms do the same with machines of this host?"""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from kubekiln.cli.main import app
from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.operations import destination, hostdestination
from kubekiln.operations.destination import find_destination
from kubekiln.paths import Project
from pipeline.targets import registry
from pipeline.targets.machine import BootImage
from pipeline.targets.record import list_records
from tests.support.clusters import make_project
from tests.support.target import FakeTarget

RUN = CliRunner()


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTarget:
    """A target of this host that boots nothing, and an image that needs no bake."""
    made = FakeTarget()
    for module in (registry, destination):
        monkeypatch.setattr(module, "TARGETS", {"fake": lambda: made})
    qcow2 = tmp_path / "disk.qcow2"
    qcow2.write_bytes(b"disk")
    image = BootImage("debian-13", "d" * 64, qcow2, tmp_path / "root.tar")
    monkeypatch.setattr(hostdestination, "bake_image", lambda *_: image)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def said(*words: str) -> str:
    result = RUN.invoke(app, [*words, "--target", "fake"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_upload_boot_status_console_and_destroy(project: Project, target: FakeTarget) -> None:
    assert said("upload").strip().endswith("disk.qcow2")

    assert said("boot") == "solo-1 solo-solo-1 running\n"
    assert said("boot") == "solo-1 solo-solo-1 running\n"
    assert target.done == ["boot solo-1"], "once"

    shown = said("status")
    assert "10.80.0.11" in shown
    (record,) = list_records(project.machines_dir, "solo")
    record.machine.console_log.write_text("KUBEKILN phase=userdata t=1.0 node=solo-1\n")
    assert "phase=userdata" in said("console", "solo-1")
    assert "userdata after 1.0 s" in said("status")

    assert said("destroy", "solo-1") == "solo-1 is gone\n"
    assert target.done[-1] == "destroy solo-1"


def test_one_node_is_booted_and_removed_alone(project: Project, target: FakeTarget) -> None:
    words = ("--cluster", "single-master", "sm-worker-1")

    assert said("boot", *words).split()[0] == "sm-worker-1"
    assert target.done == ["boot sm-worker-1"]
    assert said("destroy", *words) == "sm-worker-1 is gone\n"

    with pytest.raises(ConfigError, match="single-master has no node 'sm-worker-9'"):
        find_destination(project, "fake").boot("single-master", ["sm-worker-9"])


def test_its_machines_seed_is_nobody_elses_to_read(project: Project, target: FakeTarget) -> None:
    said("boot")

    with pytest.raises(KubekilnError, match="readable for you alone") as raised:
        find_destination(project, "fake").forget("solo")

    assert "destroy" in str(raised.value.problems[0].hint)
