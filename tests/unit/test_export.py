# SPDX-License-Identifier: Apache-2.0
"""Is what other tools are given private, and nobody's but theirs to change?"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kubekiln.cli.main import app
from kubekiln.errors import ConfigError, StorageError
from kubekiln.operations import exportansible, exportterraform
from kubekiln.operations.export import Shipment, shipment_of
from kubekiln.operations.exportclusterapi import Site, write_cluster_api
from kubekiln.operations.exportfiles import Output, open_output
from tests.support.clusters import make_project
from tests.support.shipments import KEY, make_shipment, make_site


@pytest.fixture
def shipment(tmp_path: Path) -> Shipment:
    return make_shipment(tmp_path)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


def test_what_may_hold_keys_is_for_its_owner_only_and_not_for_git(
    shipment: Shipment, site: Site, tmp_path: Path
) -> None:
    outputs = {kind: tmp_path / kind for kind in ("terraform", "ansible", "cluster-api")}
    exportterraform.write_terraform(open_output(outputs["terraform"]), shipment, "openstack")
    exportansible.write_ansible(open_output(outputs["ansible"]), shipment, "libvirt")
    write_cluster_api(open_output(outputs["cluster-api"]), shipment, site, "openstack")

    for kind, directory in outputs.items():
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        ignored = (directory / ".gitignore").read_text().splitlines()
        secret = [p for p in directory.rglob("*") if p.is_file() and holds_keys(p)]
        assert secret, kind
        for path in secret:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            top = path.relative_to(directory).parts[0]
            assert {f"/{top}", f"/{top}/"} & set(ignored), f"{kind}: git would take {top}"


def holds_keys(path: Path) -> bool:
    content = path.read_bytes()
    return KEY.encode() in content or b"CD001" in content or b"H4sI" in content


def somebodys(tmp_path: Path, name: str, text: str) -> Path:
    """Make a directory in which somebody has a file."""
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / name).write_text(text)
    return directory


def test_a_file_of_somebodys_is_neither_replaced_nor_removed(
    shipment: Shipment, site: Site, tmp_path: Path
) -> None:
    out = somebodys(tmp_path, "inventory.yaml", "mine\n")

    with pytest.raises(ConfigError, match="inventory.yaml is there, and no export"):
        exportansible.write_ansible(open_output(out), shipment, "libvirt")

    assert [path.name for path in out.iterdir()] == ["inventory.yaml"]
    write_cluster_api(open_output(out), shipment, site, "openstack")
    write_cluster_api(open_output(out), shipment, site, "openstack")
    assert (out / "inventory.yaml").read_text() == "mine\n"


def test_a_gitignore_of_somebodys_gets_the_lines_that_lack(
    shipment: Shipment, site: Site, tmp_path: Path
) -> None:
    out = somebodys(tmp_path, ".gitignore", "/mine\n/seed/\n")

    exportterraform.write_terraform(open_output(out), shipment, "libvirt")
    write_cluster_api(open_output(out), shipment, site, "openstack")

    lines = (out / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["/mine", "/seed/"]
    assert lines.count("/seed/") == 1
    assert {"/user-data/", "/kubekiln.auto.tfvars.json", "terraform.tfstate*", "/secrets.yaml"} <= {
        *lines
    }


def test_an_export_that_was_cut_off_is_done_again(
    shipment: Shipment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(Output, "finish", interrupt)
        exportterraform.write_terraform(open_output(out), shipment, "libvirt")

    exportterraform.write_terraform(open_output(out), shipment, "libvirt")
    assert not (out / ".kubekiln-export.begun").exists()


def test_a_copy_of_the_image_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "image.qcow2"
    source.write_bytes(b"new")
    out = tmp_path / "out"
    out.mkdir()
    (out / "image.qcow2").write_bytes(b"old")
    (out / ".kubekiln-export.json").write_text('["image.qcow2"]')

    def copy_half(_source: Path, target: Path) -> None:
        target.write_bytes(b"n")
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_link(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(shutil, "copyfile", copy_half)
    with pytest.raises(StorageError):
        open_output(out).link(source)

    assert (out / "image.qcow2").read_bytes() == b"old"
    assert [path.name for path in out.glob(".*half")] == []


def test_what_somebody_changed_in_an_example_stays(
    shipment: Shipment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "out"
    exportterraform.write_terraform(open_output(directory), shipment, "libvirt")
    (directory / "main.tf").write_text("# mine\n")

    exportterraform.write_terraform(open_output(directory), shipment, "libvirt")

    assert (directory / "main.tf").read_text() == "# mine\n"
    assert "main.tf is there already" in " ".join(capsys.readouterr().err.split())


def test_keys_of_a_node_that_is_gone_go_and_files_of_others_stay(
    shipment: Shipment, tmp_path: Path
) -> None:
    directory = tmp_path / "out"
    exportterraform.write_terraform(open_output(directory), shipment, "libvirt")
    (directory / "seed" / "mine.iso").write_text("not kubekiln's")

    smaller = replace(shipment, nodes=shipment.nodes[:1])
    exportterraform.write_terraform(open_output(directory), smaller, "libvirt")

    assert sorted(p.name for p in (directory / "seed").iterdir()) == ["m1.iso", "mine.iso"]
    assert not (directory / "user-data" / "w2.yaml").exists()


def test_an_existing_directory_keeps_its_mode(shipment: Shipment, tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir(mode=0o755)

    exportansible.write_ansible(open_output(directory), shipment, "libvirt")

    assert stat.S_IMODE(directory.stat().st_mode) == 0o755
    assert stat.S_IMODE((directory / "user-data").stat().st_mode) == 0o700


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")

    with pytest.raises(ConfigError, match="not a directory"):
        open_output(tmp_path / "out")


@pytest.mark.parametrize("kind", ["terraform", "ansible", "cluster-api"])
def test_the_command_says_where_the_files_are_and_that_they_hold_keys(
    shipment: Shipment, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("kubekiln.operations.export.shipment_of", lambda *_, **__: shipment)
    monkeypatch.setattr("kubekiln.operations.exportclusterapi.site_of", lambda *_: site)
    monkeypatch.setattr("kubekiln.paths.Project.find", lambda: None)
    directory = tmp_path / "out"

    result = CliRunner().invoke(app, ["export", kind, "lab", "--output", str(directory)])

    assert result.exit_code == 0, result.output
    assert str(directory) in result.stdout
    assert "hold" in result.stderr and "keys" in result.stderr
    assert (directory / ".kubekiln-export.json").is_file()


def test_a_cluster_that_expects_its_user_data_elsewhere_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)

    with pytest.raises(ConfigError, match="provider openstack attaches user-data") as raised:
        shipment_of(project, "solo", "qcow2", datasource="openstack", who="provider openstack")

    assert "datasource: openstack" in str(raised.value.problems[0].hint)
