# SPDX-License-Identifier: Apache-2.0
"""What does kubekiln ask of Proxmox, and how does it read the answers?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.secret import Secret
from pipeline.targets.platform import DiskImage, InstanceSpec, TransientError
from pipeline.targets.proxmox import Settings
from pipeline.targets.proxmox_api import Api, Credentials, Upload, find_credentials, find_endpoint
from pipeline.targets.proxmox_errors import ExistsError, MissingError, explain
from pipeline.targets.proxmox_machines import (
    disk_parameters,
    finished,
    instances_of,
    machine_parameters,
    read_tags,
    refusals,
    seed_name,
)
from pipeline.targets.proxmox_settings import Network

IMAGE = DiskImage("debian-13", "ab" * 32, Path("/disk"), "qcow2", "cd" * 32, 8 << 30)
TAGS = "kubekiln;kubekiln-cluster-lab;kubekiln-node-lab-1;kubekiln-payload-0123"


def settings(**more: Any) -> Settings:
    return Settings.model_validate({
        "type": "proxmox", "nodes": ["pve1"], "image_storage": "local",
        "disk_storage": "local-lvm", **more,
    })  # fmt: skip


def node(**more: Any) -> InstanceSpec:
    given: dict[str, Any] = {
        "cluster": "lab", "node": "lab-1", "role": "worker", "seed_dir": Path("/seed"),
        "seed_iso": Path("/seed.iso"), "payload": "0123", "macs": ("52:54:00:aa:bb:01",),
        "addresses": ("10.80.0.11",), "cpus": 2, "memory_mib": 4096, "disk_gib": 20,
    }  # fmt: skip
    return InstanceSpec(**{**given, **more})


def machine(**more: Any) -> dict[str, Any]:
    return {"type": "qemu", "vmid": 100, "node": "pve1", "status": "running", "tags": TAGS, **more}


def test_a_machine_bears_its_tags_before_it_has_a_disk() -> None:
    parameters = machine_parameters(settings(), node(), 100)

    assert read_tags(parameters["tags"])["kubekiln-node"] == "lab-1"
    assert "kubekiln-unfinished" in parameters["tags"]
    assert not [key for key in parameters if key.startswith("scsi") and key != "scsihw"]
    assert "unfinished" not in finished(node())["tags"]


def test_a_machine_asked_for_again_has_the_same_uuid_and_another_one_has_not() -> None:
    first, again, other = (
        machine_parameters(settings(), spec, 100)["smbios1"]
        for spec in (node(), node(), node(payload="4567"))
    )

    assert first == again
    assert first != other


def test_disk_and_seed_are_on_the_controller_that_the_cloud_kernel_knows() -> None:
    asked = (settings(), node(), "local:import/x.qcow2", "local:iso/seed.iso")
    parameters = disk_parameters(*asked)

    assert parameters["scsi0"].startswith("local-lvm:0,import-from=local:import/x.qcow2,")
    assert parameters["scsi1"] == "local:iso/seed.iso,media=cdrom"


def test_more_cards_than_networks_and_a_disk_below_the_image_are_refused() -> None:
    odd = node(macs=("a", "b"), disk_gib=7)

    said = [problem.what for problem in refusals(odd, IMAGE, settings())]

    assert said == [
        "lab-1 has 2 network cards, the target gives it 1",
        "lab-1 has a disk of 7 GiB, the image one of 8 GiB",
    ]
    assert list(refusals(node(), IMAGE, settings())) == []


def test_each_card_is_on_its_network() -> None:
    both = settings(networks=[{"vlan": 80}, {"bridge": "vmbr1"}])

    parameters = machine_parameters(both, node(macs=("52:54:00:aa:bb:01", "52:54:00:aa:bb:f1")), 1)

    assert parameters["net0"] == "virtio=52:54:00:AA:BB:01,bridge=vmbr0,tag=80"
    assert parameters["net1"] == "virtio=52:54:00:AA:BB:F1,bridge=vmbr1"
    assert Network().firewall is False


@pytest.mark.parametrize(("resource", "state"), [
    (machine(), "running"),
    (machine(status="stopped"), "stopped"),
    (machine(tags=f"{TAGS};kubekiln-unfinished"), "failed"),
    (machine(status="unknown"), "starting"),
])  # fmt: skip
def test_a_machine_that_is_not_finished_has_failed(resource: dict[str, Any], state: str) -> None:
    (found,) = instances_of([resource], [], "lab")

    assert (found.id, found.node, found.payload, found.state) == ("100", "lab-1", "0123", state)


def test_machines_of_others_are_not_seen() -> None:
    others = [
        machine(tags="web;prod"), machine(tags=None), machine(type="lxc"),
        machine(tags="kubekiln;kubekiln-cluster-other;kubekiln-node-n"), {"type": "qemu"},
    ]  # fmt: skip

    assert instances_of(others, ["local:iso/debian.iso"], "lab") == []


def test_a_seed_belongs_to_its_machine_or_is_a_failed_one() -> None:
    seeds = [f"local:iso/{seed_name(node(node=name))}" for name in ("lab-1", "lab-2")]

    of_machine, alone = instances_of([machine()], seeds, "lab")

    assert of_machine.extra["seeds"] == seeds[0]
    assert (alone.node, alone.state, alone.extra["seeds"]) == ("lab-2", "failed", seeds[1])


@pytest.mark.parametrize(("environ", "found"), [
    ({"PROXMOX_VE_API_TOKEN": "u@pve!t=s-1"}, Credentials("u@pve", Secret("s-1"), "t")),
    ({"PROXMOX_VE_USERNAME": "u@pve", "PROXMOX_VE_PASSWORD": "p"},
     Credentials("u@pve", Secret("p"))),
    ({"PROXMOX_USER": "u@pve", "PROXMOX_TOKEN_ID": "u@pve!t", "PROXMOX_TOKEN_SECRET": "s"},
     Credentials("u@pve", Secret("s"), "t")),
    ({"PVE_USER": "u@pve", "PVE_TOKEN_NAME": "t", "PVE_TOKEN_VALUE": "s", "PVE_PASSWORD": "p"},
     Credentials("u@pve", Secret("s"), "t")),
])  # fmt: skip
def test_credentials_are_found_where_proxmox_tools_look(
    environ: dict[str, str], found: Credentials
) -> None:
    assert find_credentials(environ) == found


@pytest.mark.parametrize("environ", [
    {}, {"PROXMOX_VE_API_TOKEN": "very-secret"}, {"PROXMOX_VE_USERNAME": "u@pve"},
])  # fmt: skip
def test_no_credentials_are_an_error_without_a_secret(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        find_credentials(environ)

    assert raised.value.problems[0].hint
    assert "very-secret" not in str(raised.value)


def test_the_endpoint_is_that_of_the_file_else_of_the_environment() -> None:
    environ = {"PROXMOX_VE_ENDPOINT": "https://env:8006/", "PROXMOX_HOST": "other"}

    assert find_endpoint("https://pve1:8443", environ) == "pve1:8443"
    assert find_endpoint(None, environ) == "env:8006"
    assert find_endpoint(None, {"PROXMOX_HOST": "other"}) == "other"
    for wrong, environment in (("http://pve1", environ), (None, {})):
        with pytest.raises(ConfigError):
            find_endpoint(wrong, environment)


@pytest.mark.parametrize(("status", "sentence", "kind"), [
    (500, "unable to create VM 100 - VM 100 already exists on node 'pve1'", ExistsError),
    (500, "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist", MissingError),
    (500, "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", TransientError),
    (500, "VM is locked (create)", TransientError),
    (595, "Connection refused", TransientError),
    (503, "", TransientError),
])  # fmt: skip
def test_sentences_of_proxmox_are_understood(
    status: int, sentence: str, kind: type[KubekilnError]
) -> None:
    assert type(explain("make m", status, sentence)) is kind


@pytest.mark.parametrize(("status", "sentence", "hint"), [
    (401, "invalid token value!", "PROXMOX_VE_API_TOKEN"),
    (403, "Permission check failed (/storage/local, Datastore.AllocateTemplate)", "privilege"),
    (500, "cp: error writing 'x': No space left on device", "free space"),
    (500, "storage 'local' does not support 'import' content", "Content"),
    (400, "Parameter verification failed; scsi0: invalid format", "8.4"),
    (500, "something else", "task log"),
])  # fmt: skip
def test_what_does_not_pass_has_a_hint(status: int, sentence: str, hint: str) -> None:
    error = explain("make m", status, sentence)

    assert not isinstance(error, TransientError)
    assert hint in str(error.problems[0].hint)


def test_a_file_on_its_way_has_its_new_name_and_counts_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"12345")
    steps: list[int] = []

    with Upload(tmp_path / "old", "new.qcow2", steps.append) as file:
        assert (file.name, file.read(2), file.read()) == ("new.qcow2", b"12", b"345")

    assert steps == [2, 3]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        # As tasks of Proxmox VE end: locks are taken by the worker, not by who answers.
        ("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", TransientError),
        ("cfs-lock 'storage-local-lvm' error: got lock request timeout", TransientError),
        ("unable to create VM 100 - no space left on device", KubekilnError),
    ],
)
def test_a_task_that_met_a_lock_may_be_asked_again(status: str, kind: type[Exception]) -> None:
    api = object.__new__(Api)
    answers = {"status": {"status": "stopped", "exitstatus": status}, "log": []}
    api.get = lambda _doing, path, **_: answers[path.rpartition("/")[2]]  # type: ignore[method-assign]

    with pytest.raises(kind) as raised:
        api.wait("make m", "UPID:pve1:0000:00:00:qmcreate:100:root@pam:")

    assert type(raised.value) is kind
    assert status in str(raised.value)
