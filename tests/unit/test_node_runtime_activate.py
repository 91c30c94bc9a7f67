# SPDX-License-Identifier: Apache-2.0
"""Does the gate open for right user-data, once, and for good only when it is on the disk?"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.activation import COPY, START, Machine
from tests.support.node_runtime import Node

from kubekiln_node import cloud_init, links  # isort: skip

RELOAD = "systemctl daemon-reload"
END_CLOUD_INIT = "systemctl stop --no-block cloud-init-main.service"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_right_user_data_opens_the_gate(machine: Machine) -> None:
    assert machine.activate() == 0

    assert machine.commands == [START, END_CLOUD_INIT]
    assert machine.console == [
        "KUBEKILN phase=userdata t=12.3 node=solo-1",
        "KUBEKILN phase=activated t=12.3 node=solo-1",
    ]
    assert machine.status()["gate"] == "open"
    assert machine.status()["phases"] == {"userdata": 12.3, "activated": 12.3}


def test_the_status_is_open_before_the_role_starts(machine: Machine) -> None:
    machine.activate()

    assert machine.status_at_start["gate"] == "open"


def test_an_activated_node_is_never_configured_again(machine: Machine) -> None:
    machine.activate()

    assert machine.node.path("/etc/cloud/cloud-init.disabled").is_file()


def test_the_files_are_on_the_disk_before_they_are_the_only_copy(machine: Machine) -> None:
    machine.node.path(COPY).parent.mkdir(parents=True)
    machine.node.path(COPY).touch()

    machine.activate()

    assert machine.left_at_sync == [(False, True), (True, True)]
    assert (machine.is_marked(), machine.has_copy()) == (True, False)


def test_only_the_first_activation_pays_for_a_flush(machine: Machine) -> None:
    machine.activate()
    machine.activate()

    assert len(machine.left_at_sync) == 2


@pytest.mark.parametrize(("in_container", "flushed"), [(False, 1), (True, 0)])
def test_a_container_does_not_flush_its_whole_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_container: bool, flushed: int
) -> None:
    mark, syncs = tmp_path / "container", []
    monkeypatch.setattr(cloud_init, "CONTAINER_MARK", str(mark))
    monkeypatch.setattr(cloud_init.os, "sync", lambda: syncs.append(1))
    if in_container:
        mark.touch()

    cloud_init.flush()

    assert len(syncs) == flushed


def add_file(node: Node, name: str) -> None:
    path = node.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[Service]\n")
    path.chmod(0o644)
    digest = sha256(b"[Service]\n").hexdigest()
    entry = {"path": name, "mode": "0644", "owner": "root:root", "sha256": digest}
    node.write_manifest(files=[*node.manifest["files"], entry])


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("/etc/systemd/system/kubekiln.target.d/10-role.conf", [START]),
        ("/etc/systemd/system/etcd.service.d/10-more.conf", [START]),
        ("/etc/systemd/network/05-x.network", [START]),
        ("/etc/systemd/system/containerd.service.d/10-proxy.conf", [RELOAD, START]),
        ("/etc/systemd/system/other.timer", [RELOAD, START]),
    ],
)
def test_only_units_that_systemd_knows_already_need_a_reload(
    machine: Machine, name: str, commands: list[str]
) -> None:
    add_file(machine.node, name)

    assert machine.activate() == 0
    assert machine.commands == [*commands, END_CLOUD_INIT]


@pytest.mark.parametrize("name", ["/etc/systemd/network/05-kubekiln.network", "/etc/x"])
@pytest.mark.parametrize("started_s", [None, 60.0, -60.0], ids=["off", "after", "before"])
def test_networkd_reads_its_files_again_only_if_they_came_after_it_started(
    machine: Machine, name: str, started_s: float | None
) -> None:
    add_file(machine.node, name)
    if started_s is not None:
        mark = machine.node.path(links.STARTED)
        mark.parent.mkdir(parents=True)
        mark.symlink_to("an-invocation")
        at = machine.node.path(name).stat().st_mtime + started_s
        os.utime(mark, (at, at), follow_symlinks=False)
    late = started_s == -60.0 and "network" in name

    assert machine.activate() == 0

    assert machine.commands == [*["networkctl reload"] * late, START, END_CLOUD_INIT]


def test_a_reboot_verifies_again_but_needs_no_reload(machine: Machine) -> None:
    add_file(machine.node, "/etc/systemd/system/other.timer")
    machine.activate()
    machine.commands.clear()

    assert machine.activate() == 0
    assert machine.commands == [START]


def test_a_file_that_changed_since_closes_the_gate_at_the_reboot(machine: Machine) -> None:
    machine.activate()
    machine.commands.clear()
    machine.node.path("/etc/kubernetes/pki/ca.crt").write_text("other\n")

    assert machine.activate() == 1
    assert machine.commands == []
    assert machine.status()["gate"] == "closed"


@pytest.mark.parametrize("failing", [RELOAD, START])
def test_a_role_that_systemd_refuses_is_no_open_gate(machine: Machine, failing: str) -> None:
    add_file(machine.node, "/etc/systemd/system/other.timer")
    machine.exit_statuses[failing] = 5

    assert machine.activate() == 1
    assert machine.status()["gate"] == "closed"
    assert f"{failing} failed with exit status 5" in machine.console[-1]
