# SPDX-License-Identifier: Apache-2.0
"""Does the gate stay closed for user-data that isn't right, and say why without quoting it?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.activation import Machine
from tests.support.node_runtime import Node


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def cloud_init_says(machine: Machine, *errors: str, **recoverable: list[str]) -> None:
    path = machine.node.path("/run/cloud-init/status.json")
    path.parent.mkdir(parents=True)
    stage = {"errors": list(errors), "recoverable_errors": recoverable}
    path.write_text(json.dumps({"v1": {"init": stage, "stage": None, "datasource": "NoCloud"}}))


def test_files_that_are_damaged_are_not_kept_with_care(machine: Machine) -> None:
    remove_file(machine.node)

    machine.activate()

    assert machine.left_at_sync == []


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
