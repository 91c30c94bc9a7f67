# SPDX-License-Identifier: Apache-2.0
"""Do the verbs for platforms say what was made, what is there, and what can't be?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from kubekiln.cli.main import app
from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.files import sha256_file
from kubekiln.operations import shipment
from kubekiln.operations.delivery import Delivery
from kubekiln.operations.retrying import Patience
from kubekiln.paths import Project
from pipeline.targets import catalog
from pipeline.targets.file import FilePlatform
from pipeline.targets.platform import DiskImage, Instance, TransientError
from tests.support.node_runtime import ROOT
from tests.support.platform import SimulatedPlatform

RUN = CliRunner()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with one target, a directory, and an image that needs no bake."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    disk = tmp_path / "disk.qcow2"
    disk.write_bytes(b"disk")
    image = DiskImage("debian-13", "d" * 64, disk, "qcow2", sha256_file(disk), 2 << 30)
    monkeypatch.setattr(shipment, "image_in", lambda *_: image)
    monkeypatch.chdir(tmp_path)
    yield Project(tmp_path)


def said(*words: str) -> str:
    result = RUN.invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_upload_boot_status_and_destroy_say_what_they_did(project: Project) -> None:
    directory = project.root / "build/delivery"

    uploaded = said("upload", "--target", "directory")
    assert Path(uploaded.strip()).parent == directory / "images"

    assert said("boot", "--target", "directory").split()[0] == "solo-1"
    assert (directory / "nodes/solo/solo-1/seed.iso").is_file()

    shown = said("status", "--target", "directory")
    assert "solo-1" in shown
    assert "a seed; what boots from it isn't known" in shown

    assert said("destroy", "--target", "directory") == "solo-1 is gone\n"
    assert not (directory / "nodes/solo").exists()
    assert said("destroy", "--target", "directory") == "no machines of solo\n"
    assert "no machines" in said("status", "--target", "directory")


def test_a_console_that_can_not_be_read_hides_no_machine(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_console(_platform: FilePlatform, instance: Instance) -> str:
        asked.append(instance.node)
        if instance.node == "sm-worker-1":
            raise KubekilnError("404: no such console")
        if asked.count(instance.node) == 1:
            raise TransientError("the connection was cut")
        return f"KUBEKILN phase=userdata t=1.0 node={instance.node}\n"

    asked: list[str] = []
    monkeypatch.setattr(FilePlatform, "read_console", read_console)
    patience = Patience(first_wait_s=0.001)
    monkeypatch.setattr(shipment, "Delivery", partial(Delivery, patience=patience))
    said("boot", "--target", "directory", "--cluster", "single-master")

    result = RUN.invoke(app, ["status", "--target", "directory"], catch_exceptions=False)

    assert result.exit_code == 0, result.output
    lines = {line.split()[1]: line for line in result.stdout.splitlines() if "sm-" in line}
    assert "userdata" in lines["sm-master-1"], "tried again"
    assert "a seed; what boots from it isn't known" in lines["sm-worker-1"]
    assert "single-master-sm-worker-1: its console can't be read: 404" in result.stderr


def test_nodes_that_can_not_be_are_all_named_before_anything_is_sent(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfit = {"sm-master-1": "sm-master-1 is too large", "sm-worker-1": "sm-worker-1 has no card"}
    cloud = SimulatedPlatform(unfit=unfit)
    to = shipment.PlatformDestination(Delivery("cloud", cloud, project))

    with pytest.raises(KubekilnError) as raised:
        to.boot("single-master")

    assert [problem.what for problem in raised.value.problems] == [
        "target cloud: sm-master-1 is too large", "target cloud: sm-worker-1 has no card",
    ]  # fmt: skip
    assert (cloud.images, cloud.made) == ({}, [])
    cloud.unfit = {}
    assert {one.node for one in to.boot("single-master")} > unfit.keys()
    assert len(cloud.images) == 1


@pytest.mark.parametrize(
    ("platform", "protect", "says"),
    [("proxmox", "age", True), ("libvirt", "age", False), ("proxmox", "none", False)],
)
def test_what_is_left_to_do_for_encrypted_user_data_is_said_where_it_is(
    project: Project, capsys: pytest.CaptureFixture[str], platform: str, protect: str, says: bool
) -> None:
    path = project.config_path("clusters", "solo")
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**config, "userdata": {"protect": protect}}))
    cloud = SimulatedPlatform(type=platform)

    shipment.PlatformDestination(Delivery("cloud", cloud, project)).boot("solo")

    said = " ".join(capsys.readouterr().err.split())
    assert ("doesn't carry the keys" in said) is says
    for words in (
        f"note: {platform} doesn't carry the keys to the user-data. Attach",
        "build/keys/solo/NODE/key.iso to each machine",
        "until then it stays off",
    ) if says else ():  # fmt: skip
        assert words in said
    assert (project.keys_dir / "solo/solo-1/key.iso").exists() is (protect == "age")
    assert cloud.made == ["solo-1"]


def test_one_node_may_be_booted_alone(project: Project) -> None:
    said("boot", "--target", "directory", "--cluster", "single-master", "sm-worker-1")

    (only,) = (project.root / "build/delivery/nodes/single-master").iterdir()
    assert only.name == "sm-worker-1"


def test_a_node_that_is_not_there_is_named_with_those_that_are(project: Project) -> None:
    with pytest.raises(ConfigError, match="solo has no node 'solo-9'") as raised:
        RUN.invoke(app, ["boot", "--target", "directory", "solo-9"], catch_exceptions=False)

    assert raised.value.problems[0].hint == "there are: solo-1"
    assert not (project.root / "build/delivery/nodes").exists()


def test_a_console_that_nobody_keeps_is_an_error(project: Project) -> None:
    said("boot", "--target", "directory")

    with pytest.raises(ConfigError, match="keeps no console"):
        RUN.invoke(app, ["console", "--target", "directory", "solo-1"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="no machine solo-9 of solo"):
        RUN.invoke(app, ["console", "--target", "directory", "solo-9"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("type: fil\ndirectory: x\n", "no type of target 'fil'"),
        ("directory: x\n", "required key 'type' is missing"),
        ("type: file\n", "required key 'directory' is missing"),
        ("type: file\ndirectory: x\nparalel: 3\n", "unknown key 'paralel'"),
        ("type: file\ndirectory: x\nparallel: 0\n", "greater than or equal to 1"),
    ],
    ids=["type", "no type", "missing", "unknown", "range"],
)
def test_a_mistake_in_a_target_is_said_with_its_line(
    project: Project, text: str, said: str
) -> None:
    path = project.configs_dir / "targets" / "mine.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=said) as raised:
        catalog.load_settings("mine", project)

    assert str(path) in str(raised.value.problems[0].where)
