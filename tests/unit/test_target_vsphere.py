# SPDX-License-Identifier: Apache-2.0
"""What of a vSphere target is decided without a vCenter?"""

from __future__ import annotations

import http.client
import threading
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import pydantic
import pytest
from pyVmomi import vim, vmodl

from kubekiln.errors import ConfigError, KubekilnError, StorageError
from pipeline.targets.platform import DiskImage, InstanceSpec, TransientError
from pipeline.targets.vsphere import Settings
from pipeline.targets.vsphere_access import Access
from pipeline.targets.vsphere_errors import of_fault, translated
from pipeline.targets.vsphere_import import renewed
from pipeline.targets.vsphere_inventory import instance_of
from pipeline.targets.vsphere_machine import note, read_note, refusals
from pipeline.targets.vsphere_session import split_path

TERRAFORM = {"VSPHERE_SERVER": "vc.example", "VSPHERE_USER": "u@d", "VSPHERE_PASSWORD": "secret"}
GOVC = {"GOVC_URL": "vc.example", "GOVC_USERNAME": "u@d", "GOVC_PASSWORD": "secret"}


def seen(access: Access) -> tuple[str, int, str, str, bool]:
    password = access.password.reveal_text()
    return access.host, access.port, access.user, password, access.verify


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        (TERRAFORM, ("vc.example", 443, "u@d", "secret", True)),
        (GOVC, ("vc.example", 443, "u@d", "secret", True)),
        (
            {"GOVC_URL": "https://u%40d:se%3Acret@vc.example:8443/sdk", "GOVC_INSECURE": "1"},
            ("vc.example", 8443, "u@d", "se:cret", False),
        ),
        (
            {**GOVC, "GOVC_URL": "other:word@vc.example"},
            ("vc.example", 443, "u@d", "secret", True),
        ),
        (
            {**GOVC, **TERRAFORM, "VSPHERE_SERVER": "[2001:db8::1]:444"},
            ("2001:db8::1", 444, "u@d", "secret", True),
        ),
        (
            {**TERRAFORM, "VSPHERE_ALLOW_UNVERIFIED_SSL": "True", "GOVC_INSECURE": "0"},
            ("vc.example", 443, "u@d", "secret", False),
        ),
        (
            {**TERRAFORM, "VSPHERE_ALLOW_UNVERIFIED_SSL": "false", "GOVC_INSECURE": "1"},
            ("vc.example", 443, "u@d", "secret", True),
        ),
    ],
    ids=["terraform", "govc", "govc-url", "govc-both", "terraform-first", "insecure", "no-mix"],
)
def test_credentials_are_found_where_terraform_and_govc_look(
    environment: dict[str, str], wanted: tuple[str, int, str, str, bool]
) -> None:
    assert seen(Access.from_environment(environment)) == wanted


def test_what_govc_takes_for_a_files_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("from a file\n")

    access = Access.from_environment({**GOVC, "GOVC_PASSWORD": str(path)})

    assert access.password.reveal_text() == "from a file"
    long = Access.from_environment({**GOVC, "GOVC_PASSWORD": "x" * 5000})
    assert long.password.reveal_text() == "x" * 5000


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no vCenter is named"),
        ({"VSPHERE_SERVER": "vc.example", **GOVC}, "no VSPHERE_USER and no VSPHERE_PASSWORD"),
        ({"GOVC_URL": "u@vc.example"}, "no GOVC_PASSWORD for vc.example"),
        ({**GOVC, "GOVC_URL": "http://u:secret@vc.example"}, "no https URL"),
        ({**GOVC, "GOVC_URL": "u:secret@vc.example:port"}, "no https URL"),
    ],
)
def test_what_is_missing_of_them_is_named_and_no_secret_shown(
    environment: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        Access.from_environment(environment)

    assert raised.value.problems[0].hint
    assert "secret" not in str(raised.value)


def test_a_file_without_certificates_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("nothing")
    access = Access.from_environment({**TERRAFORM, "GOVC_TLS_CA_CERTS": str(path)})

    with pytest.raises(ConfigError, match=r"ca\.pem can't be read as certificates"):
        access.tls()


@pytest.mark.parametrize(
    ("about", "state"),
    [
        ({"runtime.powerState": "poweredOn"}, "running"),
        ({"runtime.powerState": "poweredOff"}, "stopped"),
        # It may well run; `failed` is made anew, with another disk.
        ({"runtime.powerState": "poweredOn", "runtime.connectionState": "disconnected"}, "running"),
        ({"config.annotation": "kubekiln-cluster: lab\nkubekiln-node: lab-1"}, "failed"),
    ],
)
def test_a_machine_is_what_was_last_known_of_it(about: dict[str, Any], state: str) -> None:
    tags = {"kubekiln-cluster": "lab", "kubekiln-node": "lab-1", "kubekiln-payload": "p"}
    machine = vim.VirtualMachine("vm-1")

    found = instance_of(machine, {"config.annotation": note(tags), **about})

    assert found.state == state
    if "runtime.connectionState" in about:
        assert found.detail == "its host is disconnected"


@pytest.mark.parametrize(("mib", "right"), [(2048, None), (2050, 2052)])
def test_memory_is_what_vsphere_makes(tmp_path: Path, mib: int, right: int | None) -> None:
    for name in ("user-data", "meta-data", "network-config"):
        (tmp_path / name).write_text("{}\n")
    spec = InstanceSpec(
        cluster="lab", node="lab-1", role="worker", seed_dir=tmp_path, seed_iso=tmp_path,
        payload="p", macs=(), addresses=(), cpus=1, memory_mib=mib, disk_gib=8,
    )  # fmt: skip
    image = DiskImage("debian-13", "ab" * 32, tmp_path / "disk", "vmdk", "cd" * 32, 8 << 30)
    fields = {"type": "vsphere", "datacenter": "DC0", "cluster": "C0", "datastore": "ds",
              "folder": "lab", "networks": ["net"]}  # fmt: skip

    found = list(refusals(spec, image, Settings.model_validate(fields)))

    assert [problem.hint for problem in found] == (
        [f"give it `memory_mib: {right}`"] if right else []
    )


def test_tags_survive_what_people_write_around_them() -> None:
    tags = {"kubekiln-cluster": "lab", "kubekiln-payload": "0123"}
    text = f"Call Jo first.\r\n\r\n{note(tags)}\r\nkubekiln-x: two words\n kubekiln-y: indented\n"

    assert read_note(text) == tags
    assert read_note(None) == {}


def fault(kind: type[Any], **fields: Any) -> Any:
    made = kind()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (fault(vim.fault.InvalidLogin), KubekilnError, "refuses this user and password"),
        (fault(vim.fault.NotAuthenticated), TransientError, "session has ended"),
        (
            fault(vim.fault.NoPermission, privilegeId="Datastore.Browse"),
            KubekilnError,
            "NoPermission: Datastore.Browse",
        ),
        (fault(vim.fault.NoDiskSpace, file="x"), StorageError, "no room"),
        (fault(vim.fault.InsufficientStorageSpace), StorageError, "no room"),
        (fault(vim.fault.InsufficientMemoryResourcesFault), KubekilnError, "no host has room"),
        (fault(vim.fault.DuplicateName), TransientError, "one of that name"),
        (fault(vim.fault.TaskInProgress), TransientError, "can't do that now"),
        (fault(vmodl.fault.HostNotReachable), TransientError, "can't do that now"),
        (fault(vmodl.fault.SystemError, reason="vpxd"), TransientError, "SystemError: vpxd"),
        (fault(vmodl.fault.ManagedObjectNotFound), KubekilnError, "isn't there any more"),
        (
            fault(vmodl.fault.InvalidArgument, invalidProperty="spec.name"),
            KubekilnError,
            "InvalidArgument: spec.name",
        ),
        (fault(vim.fault.NotFound, msg="no such thing"), KubekilnError, "NotFound: no such thing"),
    ],
)
def test_a_fault_says_whether_asking_again_may_help(
    raised: Any, kind: type[KubekilnError], said: str
) -> None:
    error = of_fault(raised, "vc.example")

    assert type(error) is kind
    assert error.problems[0].what.startswith("vc.example: ")
    assert said in error.problems[0].what


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (ConnectionResetError(104, "reset by peer"), TransientError, "reset by peer"),
        (TimeoutError(), TransientError, "TimeoutError"),
        (http.client.HTTPException("503 Service Unavailable"), TransientError, "503"),
        (ExpatError("mismatched tag"), KubekilnError, "doesn't answer as a vCenter"),
        (KubekilnError("ours"), KubekilnError, "ours"),
    ],
)
def test_nothing_that_pyvmomi_raises_gets_out(
    raised: Exception, kind: type[KubekilnError], said: str
) -> None:
    with pytest.raises(KubekilnError, match=said) as error, translated("vc.example"):
        raise raised

    assert type(error.value) is kind


def test_a_lease_is_renewed_while_something_takes_its_time_even_if_one_renewal_fails() -> None:
    thrice = threading.Event()
    told: list[int] = []

    class Lease:
        def Progress(self, percent: int) -> None:
            told.append(percent)
            if len(told) == 3:
                thrice.set()
            if len(told) == 1:
                raise http.client.HTTPException("503 Service Unavailable")

    with renewed(Lease(), 0.01, lambda: 42):  # type: ignore[arg-type]
        assert thrice.wait(30)

    assert told[:3] == [42, 42, 42]


def test_a_datastores_path_is_taken_apart() -> None:
    assert split_path("[ds (1)] lab-1/console.log") == ("ds (1)", "lab-1/console.log")


@pytest.mark.parametrize(
    "changes", [{"networks": ()}, {"hardware_version": 12}, {"task_minutes": 0}, {"password": "x"}]
)
def test_a_target_that_can_not_be_meant_is_refused(changes: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {
        "type": "vsphere", "datacenter": "d", "cluster": "c", "folder": "f", "datastore": "s",
        "networks": ["n"],
    }  # fmt: skip
    assert Settings(**wanted)

    with pytest.raises(pydantic.ValidationError):
        Settings(**wanted | changes)
