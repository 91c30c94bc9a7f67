# SPDX-License-Identifier: Apache-2.0
"""Do the `cluster` verbs print what their users need, and refuse what must be refused?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kubekiln.cli.cluster import app
from kubekiln.errors import ConfigError
from kubekiln.operations import kubectl
from kubekiln.process import Command, Result
from tests.support.clusters import cluster_data, make_project, snapshot, write_cluster


@pytest.fixture
def project_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_cluster(make_project(tmp_path), cluster_data())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> str:
    result = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return result.output


def test_validate_names_version_and_nodes_and_writes_nothing(project_dir: Path) -> None:
    before = snapshot(project_dir)

    assert run("validate", "lab") == "lab: Kubernetes 1.37.1, lab-1 (single): fine\n"
    assert snapshot(project_dir) == before


def test_render_says_where_everything_is_and_how_much_it_takes(project_dir: Path) -> None:
    said = run("render", "lab")

    node = project_dir / "build" / "nodes" / "lab" / "lab-1"
    assert str(node) in said
    assert f"export KUBECONFIG={project_dir / 'state' / 'lab' / 'admin.kubeconfig'}" in said
    assert "Amazon EC2" in said and "does not fit" not in said
    assert sorted(p.name for p in node.iterdir()) == [
        "meta-data", "network-config", "seed.iso", "user-data"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("datasource", "protect", "warned"),
    [("nocloud", "none", False), ("ec2", "none", True), ("vsphere", "none", True),
     ("ec2", "age", False)],
)  # fmt: skip
def test_what_a_platform_keeps_readable_is_said_once_unless_it_is_protected(
    project_dir: Path, datasource: str, protect: str, warned: bool
) -> None:
    network = {} if datasource in ("nocloud", "vsphere") else {"addressing": "dhcp"}
    image = {"ec2": "debian-13-cloud", "vsphere": "debian-13-vmware"}.get(datasource, "debian-13")
    project = make_project(project_dir)
    changes = {"datasource": datasource, "userdata": {"protect": protect}, "network": network}
    write_cluster(project, cluster_data(**changes, image=image))

    said = run("render", "lab")

    assert said.count("holds private keys") == int(warned)
    assert ("docs/secrets.md" in said) == warned
    assert ("keys to the user-data: " in said) == (protect == "age")


def test_a_large_cluster_is_said_by_role(project_dir: Path) -> None:
    nodes = [{"name": "m-1", "role": "master", "address": "10.80.0.10"}]
    for i in range(20, 45):
        nodes.append({"name": f"w-{i}", "role": "worker", "address": f"10.80.0.{i}"})
    write_cluster(make_project(project_dir), cluster_data(nodes=nodes))

    checked, said = run("validate", "lab"), run("render", "lab", "--jobs", "1")

    assert "1 of role master, 25 of role worker: fine" in checked
    assert "25 of role worker; the largest user-data is that of\nw-" in said
    assert said.count("Amazon EC2") == 2
    assert len(list((project_dir / "build" / "nodes" / "lab").iterdir())) == 26


def test_explain_lists_files_or_one(project_dir: Path) -> None:
    listed = run("explain", "lab-1", "--cluster", "lab")
    one = run("explain", "lab-1", "/etc/kubernetes/kube-proxy.yaml", "--cluster", "lab")

    assert "/etc/kubernetes/pki/ca.crt" in listed and "units/etcd.service" in listed
    assert "cloudinit/parts/proxy.py" in one and "network.pod_cidr" in one
    assert "PRIVATE KEY" not in listed + one


@pytest.mark.parametrize("verb", ["validate", "render"])
def test_a_version_that_the_lock_lacks_is_refused_with_its_line(
    project_dir: Path, verb: str
) -> None:
    write_cluster(make_project(project_dir), cluster_data(kubernetes="1.37.0"))
    before = snapshot(project_dir)

    with pytest.raises(ConfigError) as error:
        run(verb, "lab")

    assert "1.37.0" in str(error.value) and "lab.yaml:1 (kubernetes)" in str(error.value)
    assert snapshot(project_dir) == before


def test_an_unknown_cluster_is_named_with_those_there_are(project_dir: Path) -> None:
    with pytest.raises(ConfigError, match="no cluster named 'nosuch'") as error:
        run("validate", "nosuch")

    assert "ha-stacked, kubeadm, lab, pool, single-master, solo" in str(error.value)


def test_nodes_are_shown_as_masters_know_them(project_dir: Path) -> None:
    nodes = [{"name": "m", "role": "master", "address": "10.80.0.11"}]
    nodes += [
        {"name": f"w-{i:02}", "role": "worker", "address": f"10.80.0.{20 + i}"}
        for i in range(1, 21)
    ]
    write_cluster(make_project(project_dir), cluster_data(nodes=nodes))

    rows = [line.split() for line in run("nodes", "lab").splitlines()]
    written = json.loads(run("nodes", "lab", "--manifest"))

    assert rows == [["NODE", "ADDRESSES"], ["m", "10.80.0.11"], ["w-[01-20]", "10.80.0.21"]]
    assert json.loads(written["data"]["nodes"]) == {
        "m": ["10.80.0.11"],
        "w-[01-20]": ["10.80.0.21"],
    }


def test_nodes_are_made_known_as_a_masters_own_unit_applies(
    project_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Command] = []

    def fake_run(command: Command) -> Result:
        ran.append(command)
        return Result(0, b"configmap/kubekiln-nodes serverside-applied\n")

    monkeypatch.setattr(kubectl, "run", fake_run)
    monkeypatch.setattr(kubectl, "pinned_kubectl", lambda *_, **__: Path("/bin/kubectl"))
    with pytest.raises(ConfigError, match="lab"):
        run("nodes", "lab", "--apply")
    run("render", "lab")

    said = run("nodes", "lab", "--apply")

    (command,) = ran
    assert said.splitlines()[-1] == "configmap/kubekiln-nodes serverside-applied"
    assert "--server-side" in command.argv and "--field-manager=kubekiln" in command.argv
    assert f"--kubeconfig={project_dir}/state/lab/admin.kubeconfig" in command.argv
    assert command.stdin is not None
    assert json.loads(command.stdin)["metadata"]["namespace"] == "kube-system"
