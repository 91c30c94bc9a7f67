# SPDX-License-Identifier: Apache-2.0
"""Does the gate open for right user-data only, and say why where it stays closed?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import Node, make_node

from kubekiln_node import cloud_init  # isort: skip
from kubekiln_node.activate import activate  # isort: skip

RELOAD = "systemctl daemon-reload"
START = "systemctl start --no-block kubekiln.target"
COPY = "/var/lib/cloud/instances/i-1/user-data.txt"
END_CLOUD_INIT = "systemctl stop --no-block cloud-init-main.service"


class Machine:
    """A fake root and what activation did to it."""

    def __init__(self, root: Path) -> None:
        self.node: Node = make_node(root)
        self.commands: list[str] = []
        self.console: list[str] = []
        self.exit_statuses: dict[str, int] = {}
        self.owner = "root:root"
        self.status_at_start: dict[str, Any] = {}
        self.left_at_sync: list[tuple[bool, bool]] = []

    def activate(self, host_name: str = "solo-1") -> int:
        def run(command: Sequence[str]) -> int:
            self.commands.append(" ".join(command))
            if self.commands[-1] == START:
                self.status_at_start = self.status()
            return self.exit_statuses.get(self.commands[-1], 0)

        return activate(
            run=run,
            host_name=host_name,
            owner_of=lambda _uid, _gid: self.owner,
            root=str(self.node.root),
            now=lambda: 12.34,
            tell=self.console.append,
            sync=lambda: self.left_at_sync.append((self.is_marked(), self.has_copy())),
        )

    def is_marked(self) -> bool:
        return self.node.path("/etc/cloud/cloud-init.disabled").exists()

    def has_copy(self) -> bool:
        return self.node.path(COPY).exists()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.node.path("/run/kubekiln/status.json").read_text())
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def cloud_init_says(machine: Machine, *errors: str, **recoverable: list[str]) -> None:
    path = machine.node.path("/run/cloud-init/status.json")
    path.parent.mkdir(parents=True)
    stage = {"errors": list(errors), "recoverable_errors": recoverable}
    path.write_text(json.dumps({"v1": {"init": stage, "stage": None, "datasource": "NoCloud"}}))


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


def test_files_that_are_damaged_are_not_kept_with_care(machine: Machine) -> None:
    remove_file(machine.node)

    machine.activate()

    assert machine.left_at_sync == []


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


def change_content(node: Node) -> None:
    node.path("/etc/kubernetes/pki/ca.crt").write_text("publiC\n")


def remove_file(node: Node) -> None:
    node.path("/etc/kubernetes/pki/ca.crt").unlink()


def change_mode(node: Node) -> None:
    node.path("/etc/kubernetes/pki/ca.key").chmod(0o644)


def put_link(node: Node) -> None:
    path = node.path("/etc/kubernetes/pki/ca.crt")
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def put_directory(node: Node) -> None:
    path = node.path("/etc/kubernetes/pki/ca.crt")
    path.unlink()
    path.mkdir()


def other_version(node: Node) -> None:
    node.write_manifest(kubernetes="1.36.4")


def other_image(node: Node) -> None:
    node.path("/etc/kubekiln/image.json").write_text("{}")


def no_image_record(node: Node) -> None:
    node.path("/etc/kubekiln/image.json").unlink()


def unknown_unit(node: Node) -> None:
    node.write_manifest(units=["etcd.service", "absent.service"])


def unknown_schema(node: Node) -> None:
    node.write_manifest(schema=7)


def no_manifest(node: Node) -> None:
    node.path("/etc/kubekiln/node.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change_content, "/etc/kubernetes/pki/ca.crt is damaged: sha256"),
        (remove_file, "/etc/kubernetes/pki/ca.crt is missing"),
        (change_mode, "/etc/kubernetes/pki/ca.key has mode 0644, wanted 0600"),
        (put_link, "/etc/kubernetes/pki/ca.crt can't be opened"),
        (put_directory, "/etc/kubernetes/pki/ca.crt is not a regular file"),
        (other_version, "this image carries kubernetes 1.37.1, the node needs 1.36.4"),
        (other_image, "this image carries no kubernetes"),
        (no_image_record, "/etc/kubekiln/image.json is unreadable"),
        (unknown_unit, "unit absent.service is nowhere on this machine"),
        (unknown_schema, "schema 7, this image understands 1"),
        (no_manifest, "no /etc/kubekiln/node.json: cloud-init got no usable user-data"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_damage_keeps_the_role_off_and_is_named(
    machine: Machine, damage: Callable[[Node], None], said: str
) -> None:
    damage(machine.node)

    assert machine.activate() == 1
    assert machine.commands == []
    assert machine.console[0].startswith('KUBEKILN gate=closed reason="')
    assert said in machine.console[0]
    assert machine.status()["gate"] == "closed"
    assert said in machine.status()["reasons"][0]
    assert not machine.node.path("/etc/cloud/cloud-init.disabled").exists()


def test_a_wrong_owner_keeps_the_role_off(machine: Machine) -> None:
    machine.owner = "nobody:nogroup"

    assert machine.activate() == 1
    assert "belongs to nobody:nogroup, wanted root:root" in machine.console[0]


def test_another_nodes_user_data_is_foreign(machine: Machine) -> None:
    assert machine.activate(host_name="other-2") == 1
    assert "foreign user-data: it is for node solo-1, this machine is other-2" in machine.console[0]


@pytest.mark.parametrize("host_name", ["SOLO-1", "solo-1.cluster.local"])
def test_case_and_domain_do_not_make_a_node_foreign(machine: Machine, host_name: str) -> None:
    assert machine.activate(host_name=host_name) == 0


def test_all_problems_are_on_the_console(machine: Machine) -> None:
    remove_file(machine.node)
    change_mode(machine.node)
    other_version(machine.node)
    cloud_init_says(machine)

    machine.activate()

    assert len(machine.console) == 3
    assert all(line.startswith("KUBEKILN gate=closed reason=") for line in machine.console)


def test_cloud_inits_own_error_is_quoted(machine: Machine) -> None:
    no_manifest(machine.node)
    cloud_init_says(machine, "boom", WARNING=["Failed loading yaml blob", "boom"])

    machine.activate()

    assert machine.status()["reasons"][1:] == [
        "cloud-init: boom",
        "cloud-init: Failed loading yaml blob",
    ]


@pytest.mark.parametrize(
    "complaint",
    [
        "Unexpected failure parsing userdata: while parsing\n  {'content': 'SECRET'",
        "Unhandled non-multipart (text/x-not-multipart) userdata: 'b'SECRET'...'",
        "Failed at: {'content': 'SECRET'}",
        "x" * 200 + "SECRET",
    ],
)
def test_no_piece_of_user_data_reaches_the_console(machine: Machine, complaint: str) -> None:
    no_manifest(machine.node)
    cloud_init_says(machine, complaint)

    machine.activate()

    assert "cloud-init: " in machine.console[1]
    assert "SECRET" not in "".join(machine.console)


def test_a_silent_cloud_init_is_pointed_at(machine: Machine) -> None:
    no_manifest(machine.node)
    cloud_init_says(machine)

    machine.activate()

    assert "/var/log/cloud-init.log" in machine.console[1]


@pytest.mark.parametrize("failing", [RELOAD, START])
def test_a_role_that_systemd_refuses_is_no_open_gate(machine: Machine, failing: str) -> None:
    add_file(machine.node, "/etc/systemd/system/other.timer")
    machine.exit_statuses[failing] = 5

    assert machine.activate() == 1
    assert machine.status()["gate"] == "closed"
    assert f"{failing} failed with exit status 5" in machine.console[-1]
