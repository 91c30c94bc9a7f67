# SPDX-License-Identifier: Apache-2.0
"""Does a machine of a pool stay off where it can't join, and say why?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import POOL_FIELDS, make_node, sample_manifest

from kubekiln_node.activate import activate  # isort: skip
from kubekiln_node.clock import Clock  # isort: skip
from kubekiln_node.manifest import ManifestError, read_manifest  # isort: skip
from kubekiln_node.phases import phases_of  # isort: skip

EXPIRES: int = POOL_FIELDS["token_expires"]
CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-current.pem"


class AtTime(Clock):
    """A clock that stands still until it is corrected."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def now(self) -> int:
        return self.seconds


class StillClosed(Exception):
    """The test has seen enough of a machine that would wait for ever."""


class Machine:
    """A fake root with a pool's user-data on it."""

    def __init__(self, root: Path) -> None:
        self.node = make_node(root)
        self.console: list[str] = []
        self.commands: list[str] = []
        of_pool = {k: v for k, v in self.node.manifest.items() if k != "node"}
        of_pool |= {"pool": POOL_FIELDS, "role": "pool"}
        of_pool["report"] = {"cert": CERTIFICATE, "key": CERTIFICATE}
        self.node.path("/etc/kubekiln/node.json").write_text(json.dumps(of_pool))

    def activate(
        self, host_name: str, *, at: int = EXPIRES - 1, corrected_to: int | None = None
    ) -> int:
        """Boot; after some looks a time server corrects the clock, or the test gives up."""
        clock, looks = AtTime(at), []

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 5:
                if corrected_to is None:
                    raise StillClosed
                clock.seconds = corrected_to

        return activate(
            run=lambda command: self.commands.append(" ".join(command)) or 0,
            host_name=host_name,
            owner_of=lambda _uid, _gid: "root:root",
            root=str(self.node.root),
            now=lambda: 1.0,
            tell=self.console.append,
            clock=clock,
            sync=lambda: None,
            sleep=sleep,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("name", ["batch-1", "batch-x7", "BATCH-1"])
def test_a_machine_of_the_pool_is_known_by_its_name(machine: Machine, name: str) -> None:
    assert machine.activate(name) == 0

    assert machine.console[-1] == f"KUBEKILN phase=activated t=1.0 node={name.lower()}"


@pytest.mark.parametrize("name", ["web-1", "batch", "batch-", "batch-1.lab", "localhost"])
def test_a_machine_of_another_name_stays_off_and_says_why(machine: Machine, name: str) -> None:
    assert machine.activate(name) == 1

    assert machine.commands == []
    line = machine.console[0]
    assert f"this machine is called {name}, and those of pool batch are called batch-…" in line


def test_a_token_that_has_expired_keeps_the_gate_closed(machine: Machine) -> None:
    with pytest.raises(StillClosed):
        machine.activate("batch-1", at=EXPIRES + 1)

    assert machine.commands == []
    assert not machine.node.path("/etc/cloud/cloud-init.disabled").exists()
    closed = [line for line in machine.console if "gate=" in line]
    assert len(closed) == 1
    assert (
        'KUBEKILN gate=closed reason="bootstrap token abcdef of pool batch expired on '
        "2027-01-15T08:00:00Z, by this machine's clock it is 2027-01-15T08:00:01Z: correct"
    ) in closed[0]
    status = json.loads(machine.node.path("/run/kubekiln/status.json").read_text())
    assert (status["gate"], status["node"]) == ("closed", "batch-1")


def test_a_clock_that_was_ahead_and_is_corrected_opens_the_gate(machine: Machine) -> None:
    assert machine.activate("batch-1", at=EXPIRES + 86_400, corrected_to=EXPIRES - 60) == 0

    said = [line.split(" t=")[0].split(" reason=")[0] for line in machine.console]
    assert said == [
        "KUBEKILN phase=userdata",
        "KUBEKILN gate=closed",
        "KUBEKILN gate=open",
        "KUBEKILN phase=activated",
    ]


def test_a_machine_that_has_its_certificate_needs_no_token(machine: Machine) -> None:
    certificate = machine.node.path(CERTIFICATE)
    certificate.parent.mkdir(parents=True)
    certificate.touch()

    assert machine.activate("batch-1", at=EXPIRES + 1) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pool": POOL_FIELDS}, "for a node and for a pool"),
        (
            {"pool": {**POOL_FIELDS, "token_expires": "soon"}, "node": None},
            "pool.token_expires is 'soon'",
        ),
        ({"pool": {**POOL_FIELDS, "more": 1}, "node": None}, "pool must have exactly"),
        ({"pool": {**POOL_FIELDS, "addresses": "here"}, "node": None}, "here"),
        ({"node": None}, "node is None, not a name"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    raw = sample_manifest(**changes)
    if raw["node"] is None and "pool" in raw:
        del raw["node"]
    path = tmp_path / "node.json"
    path.write_text(json.dumps(raw))

    with pytest.raises(ManifestError, match=said):
        read_manifest(str(path))


def test_a_pools_machine_takes_the_name_that_it_has(tmp_path: Path) -> None:
    raw = sample_manifest(pool=POOL_FIELDS, units=["kubelet.service"])
    del raw["node"]
    path = tmp_path / "node.json"
    path.write_text(json.dumps(raw))

    manifest = read_manifest(str(path), host_name="Batch-9")

    assert manifest.node == "batch-9"
    assert [phase.name for phase in phases_of(manifest)] == [
        "containerd", "joined", "api", "registered", "ready"
    ]  # fmt: skip
