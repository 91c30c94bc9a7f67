# SPDX-License-Identifier: Apache-2.0
"""Does a machine of a pool say what it waits for, and stay off where it can't join?"""

from __future__ import annotations

import base64
import itertools
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import make_certificates, make_node, sample_manifest, send_json
from tests.support.node_runtime import serving as api_of
from tests.unit.test_node_runtime_csr_rules import make_request
from tests.unit.test_node_runtime_pools import subject

from kubekiln_node import joining  # isort: skip
from kubekiln_node.activate import activate  # isort: skip
from kubekiln_node.api import client_context, get  # isort: skip
from kubekiln_node.clock import Clock  # isort: skip
from kubekiln_node.joining import (  # isort: skip
    Waiting,
    address_trouble,
    is_for,
    own_address,
    refusal,
    token_trouble,
    wait_for_address,
    wait_for_certificate,
)
from kubekiln_node.manifest import ManifestError, read_manifest  # isort: skip
from kubekiln_node.phases import phases_of  # isort: skip
from kubekiln_node.pool import Pool  # isort: skip
from kubekiln_node.waiting import Rarely  # isort: skip

EXPIRES = 1_800_000_000
RAW: dict[str, Any] = {
    "name": "batch",
    "prefix": "batch-",
    "addresses": "127.0.0.0/8",
    "token_id": "abcdef",
    "token_expires": EXPIRES,
}
POOL = Pool(**RAW)
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
        of_pool |= {"pool": RAW, "role": "pool"}
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
        ({"pool": RAW}, "for a node and for a pool"),
        ({"pool": {**RAW, "token_expires": "soon"}, "node": None}, "pool.token_expires is 'soon'"),
        ({"pool": {**RAW, "more": 1}, "node": None}, "pool must have exactly"),
        ({"pool": {**RAW, "addresses": "here"}, "node": None}, "here"),
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
    raw = sample_manifest(pool=RAW, units=["kubelet.service"])
    del raw["node"]
    path = tmp_path / "node.json"
    path.write_text(json.dumps(raw))

    manifest = read_manifest(str(path), host_name="Batch-9")

    assert manifest.node == "batch-9"
    assert [phase.name for phase in phases_of(manifest)] == [
        "containerd", "joined", "api", "registered", "ready"
    ]  # fmt: skip


class Waited:
    """Waits without waiting: time goes on by as much as is slept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seconds = 0.0
        self.waiting = Waiting(
            "batch-1", tell=self.lines.append, sleep=self._sleep, clock=lambda: self.seconds
        )

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def until(self, *troubles: str) -> None:
        left = list(troubles)
        self.waiting.until(lambda: left.pop(0) if left else "")


def test_an_address_that_comes_soon_is_not_worth_a_word() -> None:
    waited = Waited()

    waited.until(*["address=refused"] * 5)

    assert waited.lines == []


def test_an_address_that_does_not_come_is_missed_aloud_but_not_often() -> None:
    waited = Waited()

    waited.until(*["address=refused reason=x"] * 400)

    assert len(waited.lines) == 2
    assert waited.lines[0].startswith("KUBEKILN address=refused reason=x t=")
    assert waited.lines[0].endswith(" node=batch-1")


def test_a_token_that_is_refused_is_said_at_once() -> None:
    waited = Waited()

    waited.until("token=refused reason=x")

    assert len(waited.lines) == 1


def test_the_machines_address_is_written_down_for_its_units(tmp_path: Path) -> None:
    found = iter(["", "10.9.9.9", "127.0.0.5", "127.0.0.5"])
    path = tmp_path / "node.env"

    wait_for_address(
        POOL, "batch-1", Waited().waiting, path=str(path), find=lambda _network: next(found)
    )

    assert path.read_text() == "NODE_IP=127.0.0.5\nNODE_NAME=batch-1\n"


def test_the_way_to_a_network_tells_the_own_address() -> None:
    assert own_address("127.0.0.0/8").startswith("127.")
    assert address_trouble("10.85.0.9", POOL) == (
        'address=refused reason="the address is 10.85.0.9, not in 127.0.0.0/8"'
    )
    assert "missing, it shall be in" in address_trouble("", POOL)


def test_a_pool_of_one_address_has_a_way_too() -> None:
    assert own_address("127.0.0.1/32") == "127.0.0.1"
    assert own_address("127.0.0.0/31").startswith("127.")


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_what_is_dear_to_answer_is_asked_ever_more_rarely(chance: float) -> None:
    now, asked = 0.0, []
    rarely = Rarely(
        lambda: asked.append(now) or f"answer {len(asked)}",
        until_then="none yet",
        clock=lambda: now,
        random=lambda: chance,
    )
    assert rarely() == "none yet"

    while now < 3600:
        now += 2
        assert rarely() == (f"answer {len(asked)}" if asked else "none yet")

    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert 2 <= asked[0] <= 6
    assert pauses[:6] == sorted(pauses[:6])
    assert 22 <= max(pauses) <= 40
    assert sum(at <= 120 for at in asked) >= 5


def test_the_certificate_is_seen_at_once_though_the_api_is_asked_rarely(tmp_path: Path) -> None:
    waited, asked = Waited(), []
    certificate = tmp_path / "kubelet-client-current.pem"

    def refuse() -> str:
        asked.append(waited.seconds)
        if len(asked) == 8:
            certificate.touch()
        return "join=refused reason=x"

    wait_for_certificate(str(certificate), refuse, waited.waiting, clock=lambda: waited.seconds)

    assert len(asked) == 8
    assert asked[-1] > 60
    assert waited.seconds == asked[-1] + 2
    assert len(waited.lines) == 1


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, ""),
        (401, "token=refused reason=\"the cluster doesn't know token abcdef of pool batch"),
        (403, 'token=unanswered reason="the API server answers 403"'),
        (0, 'token=unanswered reason="no API server answers"'),
    ],
)
def test_an_answer_says_whether_the_token_is_taken(status: int, said: str) -> None:
    assert token_trouble(status, POOL, "lab").startswith(said)
    assert bool(token_trouble(status, POOL, "lab")) == bool(said)


def test_the_token_is_shown_to_the_api_and_nowhere_else(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    seen: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        seen.append(f"{handler.path} {handler.headers.get('Authorization')}")
        send_json(handler, 200, {})

    with api_of(answer, certificates) as url:
        context = client_context(ca=str(certificates.ca), cert="", key="")
        status = get(url, joining.ANY_REQUEST, context, token="abcdef.0123").status  # noqa: S106
        get(url, "/readyz", context)

    assert status == 200
    assert seen == [f"{joining.ANY_REQUEST} Bearer abcdef.0123", "/readyz None"]


def request(node: str, *, called: str = "csr-1", at: str = "1", **condition: str) -> dict[str, Any]:
    pem = make_request((), subject=subject(node))
    return {
        "metadata": {"name": called, "creationTimestamp": at},
        "spec": {"request": base64.b64encode(pem).decode()},
        "status": {"conditions": [condition]} if condition else {},
    }


def test_the_last_request_of_this_machine_says_why_it_waits() -> None:
    denied = {"type": "Denied", "message": "there is a Node batch-1 already"}
    of_another = request("batch-10", called="csr-3", at="3", type="Denied", message="full")
    first = request("batch-1", called="csr-1", at="1", **denied)
    again = request("batch-1", called="csr-2", at="2")

    assert refusal({"items": [of_another, first]}, "batch-1") == (
        'join=refused reason="csr-1: there is a Node batch-1 already"'
    )
    assert refusal({"items": [again, first]}, "batch-1").startswith("join=undecided")
    assert refusal({}, "batch-1").startswith("join=undecided")


@pytest.mark.parametrize("spec", [{}, {"request": None}, {"request": "AAAA"}, {"request": "é"}])
def test_a_request_that_is_none_is_nobodys(spec: dict[str, Any]) -> None:
    assert not is_for({"spec": spec}, "batch-1")


def test_a_machine_without_its_token_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(joining, "MANIFEST_PATH", str(tmp_path / "absent.json"))

    assert joining.main() == 1
    assert "absent.json" in capsys.readouterr().err
