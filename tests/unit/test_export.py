# SPDX-License-Identifier: Apache-2.0
"""Is what other tools are given complete, private, and nobody's but theirs to change?"""

from __future__ import annotations

import base64
import errno
import gzip
import json
import os
import random
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from kubekiln.cli.main import app
from kubekiln.errors import ConfigError, StorageError
from kubekiln.files import sha256_file
from kubekiln.operations import exportansible, exportclusterapi, exportterraform
from kubekiln.operations.export import Shipment, shipment_of
from kubekiln.operations.exportclusterapi import Site, write_cluster_api
from kubekiln.operations.exportfiles import Output, open_output
from pipeline.targets.openstack_images import FIXED_HARDWARE
from pipeline.targets.platform import DiskImage, InstanceSpec
from tests.support.clusters import make_project

KEY = "PRIVATE KEY of lab"


def make_node(base: Path, name: str, role: str, *, text: str = "") -> InstanceSpec:
    directory = base / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "user-data").write_text(f"#cloud-config\n# {KEY} {name}\n{text}")
    (directory / "meta-data").write_text(f"instance-id: {name}\n")
    (directory / "network-config").write_text("version: 2\n")
    (directory / "seed.iso").write_bytes(b"CD001" + name.encode())
    number = int(name[-1])
    return InstanceSpec(
        cluster="lab", node=name, role=role, seed_dir=directory, seed_iso=directory / "seed.iso",
        payload=f"payload-of-{name}",
        macs=(f"52:00:00:00:00:0{number}", f"52:00:00:00:01:0{number}"),
        addresses=(f"10.80.0.1{number}",), cpus=2, memory_mib=2048, disk_gib=20,
    )  # fmt: skip


@pytest.fixture
def shipment(tmp_path: Path) -> Shipment:
    path = tmp_path / "images" / "kubekiln-debian-13.qcow2"
    path.parent.mkdir()
    path.write_bytes(b"QFI\xfb an image")
    image = DiskImage("debian-13", "ab" * 32, path, "qcow2", sha256_file(path), 8 << 30)
    base = tmp_path / "nodes"
    nodes = (make_node(base, "m1", "master"), make_node(base, "w2", "worker"))
    return Shipment("lab", image, nodes)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    kubeconfig = tmp_path / "admin.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump({"current-context": "lab"}))
    pool = tmp_path / "pool"
    pool.write_text("#cloud-config\n")
    return Site(
        "1.37.1", "10.80.0.5", 6443, frozenset({"m1"}), kubeconfig, (("burst", "burst-", pool),)
    )


def variables(directory: Path) -> Any:
    return json.loads((directory / "kubekiln.auto.tfvars.json").read_text())


@pytest.mark.parametrize("provider", sorted(exportterraform.PROVIDERS))
def test_every_path_that_terraform_is_given_leads_to_what_it_says(
    shipment: Shipment, tmp_path: Path, provider: str
) -> None:
    directory = tmp_path / "out"

    exportterraform.write_terraform(open_output(directory), shipment, provider)

    given = variables(directory)
    assert set(given["nodes"]) == {"m1", "w2"}
    node = given["nodes"]["w2"]
    seed = shipment.nodes[1].seed_dir
    assert (directory / node["user_data_path"]).read_bytes() == (seed / "user-data").read_bytes()
    packed = base64.b64decode((directory / node["user_data_gzip_b64_path"]).read_text())
    assert gzip.decompress(packed) == (seed / "user-data").read_bytes()
    assert (directory / node["seed_iso_path"]).read_bytes() == (seed / "seed.iso").read_bytes()
    assert (node["role"], node["mac"], node["addresses"]) == (
        "worker", "52:00:00:00:00:02", ["10.80.0.12"])  # fmt: skip
    if exportterraform.PROVIDERS[provider].has_image:
        assert sha256_file(directory / given["image_path"]) == given["image_sha256"]
    assert KEY not in json.dumps(given)


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


@pytest.mark.parametrize(
    ("write", "provider"),
    [(exportterraform.write_terraform, "aws"), (exportansible.write_ansible, "openstack")],
    ids=["gzip", "plain"],
)
def test_user_data_that_is_too_large_is_refused_before_anything_is_written(
    shipment: Shipment, tmp_path: Path, write: Any, provider: str
) -> None:
    text = "# " + base64.b64encode(random.Random(1).randbytes(60_000)).decode()
    large = make_node(tmp_path / "large", "m1", "master", text=text)
    directory = tmp_path / "out"

    with pytest.raises(ConfigError, match="m1: user-data is"):
        write(Output(directory), replace(shipment, nodes=(large,)), provider)

    assert not directory.exists()


def test_a_pools_user_data_is_held_against_the_limit_like_a_nodes(
    shipment: Shipment, site: Site, tmp_path: Path
) -> None:
    pool = tmp_path / "large"
    pool.write_text("# " + base64.b64encode(random.Random(1).randbytes(60_000)).decode())
    large = replace(site, pools=(("burst", "burst-", pool),))

    with pytest.raises(ConfigError, match="^error: burst: user-data is"):
        write_cluster_api(Output(tmp_path / "out"), shipment, large, "openstack")


def test_ansible_finds_every_host_below_its_role(shipment: Shipment, tmp_path: Path) -> None:
    directory = tmp_path / "out"

    exportansible.write_ansible(open_output(directory), shipment, "openstack")

    inventory = yaml.safe_load((directory / "inventory.yaml").read_text())
    groups = inventory["all"]["children"]["kubekiln"]["children"]
    assert set(groups) == {"kubekiln_master", "kubekiln_worker"}
    host = groups["kubekiln_worker"]["hosts"]["w2"]
    assert host["kubekiln_ports"] == [{"port-name": "lab-w2"}, {"port-name": "lab-w2-1"}]
    assert (directory / host["kubekiln_user_data_path"]).is_file()


@pytest.mark.parametrize("provider", sorted(exportclusterapi.PROVIDERS))
def test_every_machine_has_its_bootstrap_data_and_its_infrastructure(
    shipment: Shipment, site: Site, tmp_path: Path, provider: str
) -> None:
    directory = tmp_path / "out"

    write_cluster_api(open_output(directory), shipment, site, provider)

    objects = load_all(directory / "machines.yaml")
    secrets = {s["metadata"]["name"]: s for s in load_all(directory / "secrets.yaml")}
    known = {(o["kind"], o["metadata"]["name"]) for o in objects}
    machines = [o["spec"] for o in objects if o["kind"] == "Machine"]
    machines += [o["spec"]["template"]["spec"] for o in objects if o["kind"] == "MachineDeployment"]
    assert len(machines) == 3
    for machine in machines:
        reference = machine["infrastructureRef"]
        assert (reference["kind"], reference["name"]) in known
        secret = secrets[machine["bootstrap"]["dataSecretName"]]
        assert base64.b64decode(secret["data"]["format"]) == b"cloud-config"
        data = base64.b64decode(secret["data"]["value"])
        assert (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).startswith(b"#cloud")
    masters = [o["metadata"]["name"] for o in objects if o["kind"] == "Machine"
               and "cluster.x-k8s.io/control-plane" in o["metadata"]["labels"]]  # fmt: skip
    assert masters == ["lab-m1"]


def test_cluster_api_reaches_the_cluster_over_the_nodes_network(
    shipment: Shipment, site: Site, tmp_path: Path
) -> None:
    write_cluster_api(open_output(tmp_path / "out"), shipment, site, "openstack")

    secrets = {s["metadata"]["name"]: s for s in load_all(tmp_path / "out" / "secrets.yaml")}
    value = base64.b64decode(secrets["lab-kubeconfig"]["data"]["value"])
    assert yaml.safe_load(value)["current-context"] == "lab-network"


def load_all(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


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


def test_libvirt_is_given_disks_as_files(shipment: Shipment, tmp_path: Path) -> None:
    exportterraform.write_terraform(open_output(tmp_path / "out"), shipment, "libvirt")

    module = (tmp_path / "out/main.tf").read_text()
    sources = re.findall(r"\bsource = \{\s*(\w+) = \{\s*(\w+) += (\S+)", module)

    # AppArmor's helper sees what is below a layer only of a file, not of a pool's volume.
    disks = [(kind, key, path) for kind, key, path in sources if kind != "bridge"]
    assert disks == [
        ("file", "file", "libvirt_volume.root[each.key].path"),
        ("file", "file", "volume.path"),
        ("file", "file", "libvirt_volume.seed[each.key].path"),
    ]


def test_an_image_gets_the_drives_on_openstack_that_its_kernel_sees(
    shipment: Shipment, tmp_path: Path
) -> None:
    exportterraform.write_terraform(open_output(tmp_path / "tofu"), shipment, "openstack")
    exportansible.write_ansible(open_output(tmp_path / "ansible"), shipment, "openstack")

    module = (tmp_path / "tofu/main.tf").read_text()
    plays = yaml.safe_load((tmp_path / "ansible/boot.yaml").read_text())
    (image,) = (task["openstack.cloud.image"] for task in plays[0]["tasks"]
                if "openstack.cloud.image" in task)  # fmt: skip

    assert FIXED_HARDWARE.items() <= dict(re.findall(r'(\w+) += "([^"]+)"', module)).items()
    assert FIXED_HARDWARE.items() <= image["properties"].items()
