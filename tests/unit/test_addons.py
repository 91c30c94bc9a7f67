# SPDX-License-Identifier: Apache-2.0
"""Are add-ons switched as a boot would apply them, and is it remembered where it can be?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit.model import Cluster
from cloudinit.rules import load_cluster
from kubekiln.errors import ConfigError
from kubekiln.operations import addons, kubectl
from kubekiln.operations.kubectl import Admin
from kubekiln.operations.profile import Shape, find_or_make
from kubekiln.paths import Project
from kubekiln.process import Command, Result
from pipeline.targets.record import record_of, write_record
from tests.support.clusters import make_project, render_files
from tests.support.machines import make_machine

ADDON = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: hello, namespace: default}
data: {dns: "{{ dns_ip }}", nodes: "{{ nodes }} nodes"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = make_project(tmp_path)
    (project.configs_dir / "addons" / "hello.yaml").write_text(ADDON)
    find_or_make(project, "try", Shape(nodes=2))
    return project


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Command]:
    """What kubectl was asked to do."""
    found: list[Command] = []

    def run(command: Command) -> Result:
        found.append(command)
        return Result(0, b"configmap/hello serverside-applied\n")

    def admin_for(_project: Project, cluster: Cluster, **_more: Any) -> Admin:
        return Admin(cluster.name, Path("/bin/kubectl"), Path("/state/admin.kubeconfig"))

    for module in (addons, kubectl):
        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(addons, "admin_for", admin_for)
    return found


def start(project: Project, cluster: str) -> None:
    run_dir = project.machines_dir / cluster / f"{cluster}-1"
    write_record(record_of("fake", make_machine(project.root, run_dir=run_dir)))


def test_listing_says_what_is_enabled(project: Project) -> None:
    cluster, listed = addons.list_addons(project, "try")

    assert cluster == "try"
    assert [(a.name, a.is_enabled) for a in listed] == [("coredns", True), ("hello", False)]
    assert listed[1].kinds == "ConfigMap"


def test_enabling_applies_to_a_cluster_that_runs_and_records_it(
    project: Project, ran: list[Command]
) -> None:
    start(project, "try")

    switched = addons.enable(project, "hello", None)

    assert switched.was_running and "serverside-applied" in switched.said
    assert [str(word) for word in ran[0].argv][2:] == [
        "apply", "--server-side", "--force-conflicts", "--field-manager=kubekiln", "--filename=-"
    ]  # fmt: skip
    applied = yaml.safe_load(ran[0].stdin or b"")
    assert applied["data"] == {"dns": "10.96.0.10", "nodes": "2 nodes"}
    assert load_cluster("try", project).addons == ("coredns", "hello")
    assert switched.to_write is None


def test_one_that_is_enabled_meanwhile_is_not_forgotten(
    project: Project, ran: list[Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.configs_dir / "addons" / "other.yaml").write_text(ADDON.replace("hello", "other"))
    start(project, "try")
    real = kubectl.run

    def slow(command: Command) -> Result:
        monkeypatch.setattr(kubectl, "run", real)
        addons.enable(project, "other", "try")
        return real(command)

    monkeypatch.setattr(kubectl, "run", slow)

    addons.enable(project, "hello", "try")

    assert load_cluster("try", project).addons == ("coredns", "other", "hello")


def test_what_is_applied_is_what_a_boot_applies(project: Project, ran: list[Command]) -> None:
    start(project, "try")

    addons.enable(project, "coredns", "try")

    files = render_files(project.root, **yaml.safe_load(project.profile_path("try").read_text()))
    header, _, body = files["/etc/kubernetes/addons/coredns.yaml"].content.partition(b"\n")
    assert header.startswith(b"# Written by cloud-init")
    assert ran[0].stdin == body


def test_a_cluster_that_is_down_is_only_recorded(project: Project, ran: list[Command]) -> None:
    switched = addons.enable(project, "hello", "try")

    assert not switched.was_running and ran == []
    assert load_cluster("try", project).addons == ("coredns", "hello")


def test_a_persons_config_is_not_rewritten_but_shown_what_to_write(
    project: Project, ran: list[Command]
) -> None:
    path = project.config_path("clusters", "solo")
    before = path.read_text()

    switched = addons.enable(project, "hello", "solo")

    assert switched.to_write == "addons: [coredns, hello]"
    assert switched.config == path and path.read_text() == before


def test_a_config_that_lies_elsewhere_is_the_one_that_is_read(
    project: Project, ran: list[Command], tmp_path: Path
) -> None:
    # The project's own of this name has other add-ons.
    elsewhere = tmp_path / "elsewhere" / "try.yaml"
    elsewhere.parent.mkdir()
    config = yaml.safe_load(project.profile_path("try").read_text())
    elsewhere.write_text(yaml.safe_dump(config | {"addons": ["coredns", "hello"]}))

    name, listed = addons.list_addons(project, str(elsewhere))

    assert name == "try"
    assert {one.name for one in listed if one.is_enabled} == {"coredns", "hello"}
    switched = addons.disable(project, "hello", str(elsewhere))
    assert switched.config == elsewhere
    assert switched.to_write == "addons: [coredns]"


def test_an_addon_by_a_relative_path_in_a_config_is_found_by_another_path_to_it(
    project: Project, ran: list[Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(ADDON)
    monkeypatch.chdir(tmp_path)
    path = project.config_path("clusters", "solo")
    path.write_text(path.read_text() + "\naddons: [coredns, ./mine.yaml]\n")

    assert addons.enable(project, str(tmp_path / "mine.yaml"), "solo").to_write is None
    assert addons.disable(project, "./mine.yaml", "solo").to_write == "addons: [coredns]"


def test_two_addons_of_one_name_are_refused_before_anything_is_applied(
    project: Project, ran: list[Command], tmp_path: Path
) -> None:
    (tmp_path / "coredns.yaml").write_text(ADDON)
    start(project, "try")

    with pytest.raises(ConfigError, match="another add-on named coredns is enabled"):
        addons.enable(project, str(tmp_path / "coredns.yaml"), "try")

    assert ran == []


def test_enabling_twice_changes_nothing(project: Project, ran: list[Command]) -> None:
    addons.enable(project, "hello", "try")
    before = project.profile_path("try").read_text()

    addons.enable(project, "hello", "try")

    assert project.profile_path("try").read_text() == before


def test_an_addon_of_ones_own_is_found_from_anywhere(
    project: Project, ran: list[Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text(ADDON)
    monkeypatch.chdir(tmp_path)

    addons.enable(project, "./mine.yaml", "try")

    assert load_cluster("try", project).addons == ("coredns", str(tmp_path / "mine.yaml"))
    addons.disable(project, "./mine.yaml", "try")
    assert load_cluster("try", project).addons == ("coredns",)


def test_disabling_deletes_the_objects_and_records_it(project: Project, ran: list[Command]) -> None:
    addons.enable(project, "hello", "try")
    start(project, "try")

    switched = addons.disable(project, "hello", "try")

    assert [str(word) for word in ran[0].argv][2:] == [
        "delete", "--ignore-not-found", "--filename=-"
    ]  # fmt: skip
    assert yaml.safe_load(ran[0].stdin or b"")["metadata"]["name"] == "hello"
    assert load_cluster("try", project).addons == ("coredns",)
    assert switched.was_running


def test_disabling_what_is_not_enabled_is_refused(project: Project, ran: list[Command]) -> None:
    with pytest.raises(ConfigError, match="hello is not enabled in try"):
        addons.disable(project, "hello", "try")


def test_an_addon_that_there_is_not_is_named_with_those_there_are(
    project: Project, ran: list[Command]
) -> None:
    with pytest.raises(ConfigError, match="no addon named 'nosuch'") as error:
        addons.enable(project, "nosuch", "try")

    assert "coredns, hello" in str(error.value) and ran == []
