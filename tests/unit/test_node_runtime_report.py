# SPDX-License-Identifier: Apache-2.0
"""Does the boot report say each phase once and in order, and who is to blame for a late one?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import sample_manifest, send_json, serving

from kubekiln_node.console import quote, say  # isort: skip
from kubekiln_node.failing import find_failing  # isort: skip
from kubekiln_node.manifest import Manifest, read_manifest  # isort: skip
from kubekiln_node.phases import (  # isort: skip
    Phase,
    is_of_this_boot,
    node_is_ready,
    phases_of,
)
from kubekiln_node.phone import Phone  # isort: skip
from kubekiln_node.report import Reporter, watch  # isort: skip


def manifest_of(tmp_path: Path, **changes: Any) -> Manifest:
    path = tmp_path / "node.json"
    path.write_text(json.dumps(sample_manifest(**changes)))
    manifest: Manifest = read_manifest(str(path))
    return manifest


class Desk:
    """A reporter whose console, telephone and clock are lists."""

    def __init__(self, tmp_path: Path) -> None:
        self.console: list[str] = []
        self.calls: list[tuple[str, float]] = []
        self.sleeps: list[float] = []
        self.status_path = tmp_path / "run" / "status.json"
        self._ticks: Iterator[int] = count()
        self.reporter = Reporter(
            manifest_of(tmp_path),
            phone=lambda name, t: self.calls.append((name, t)),
            tell=self.console.append,
            now=lambda: 7.25,
            status_path=str(self.status_path),
        )

    def watch(self, *phases: Phase, timeout_s: float = 1000.0) -> None:
        watch(
            list(phases),
            self.reporter,
            timeout_s=timeout_s,
            sleep=self.sleeps.append,
            clock=lambda: float(next(self._ticks)),
            failing=lambda: [("etcd.service", "failed/failed", 'no "space" left\non device')],
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.status_path.read_text())
        return found


def after(looks: int) -> Any:
    """A question that is answered with yes after so many looks."""
    left = iter([False] * looks + [True])
    return lambda: next(left)


def test_each_phase_is_said_once_and_in_order(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    desk.watch(Phase("etcd", after(2)), Phase("api", after(0)))
    desk.reporter.complete()

    assert desk.console == [
        "KUBEKILN phase=etcd t=7.2 node=solo-1",
        "KUBEKILN phase=api t=7.2 node=solo-1",
        "KUBEKILN complete t=7.2 node=solo-1",
    ]
    assert desk.calls == [("etcd", 7.2), ("api", 7.2)]
    assert desk.status() == {
        "complete": True,
        "failing": [],
        "phases": {"api": 7.2, "etcd": 7.2},
    }


def test_an_earlier_status_is_kept(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.status_path.parent.mkdir()
    desk.status_path.write_text('{"gate": "open", "phases": {"userdata": 1.0}}')

    desk.watch(Phase("api", after(0)))

    assert desk.status()["gate"] == "open"
    assert desk.status()["phases"] == {"userdata": 1.0, "api": 7.2}


def test_an_expensive_look_is_followed_by_a_long_rest(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    desk.watch(Phase("api", after(1)))

    assert desk.sleeps == [4.0]


def test_a_late_phase_names_the_failing_units_and_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path)

    desk.watch(Phase("api", after(3)), timeout_s=4.0)

    assert desk.console == [
        "KUBEKILN late phase=api t=7.2 node=solo-1",
        "KUBEKILN failing unit=etcd.service state=failed/failed"
        " last=\"no 'space' left on device\" node=solo-1",
        "KUBEKILN phase=api t=7.2 node=solo-1",
    ]
    assert desk.status()["failing"][0]["unit"] == "etcd.service"


@pytest.mark.parametrize(
    ("units", "names"),
    [
        pytest.param(
            ["etcd.service", "kubelet.service", "kubekiln-addons.service"],
            ["containerd", "etcd", "api", "registered", "ready", "addons"],
            id="single",
        ),
        pytest.param(
            ["kubelet.service"], ["containerd", "api", "registered", "ready"], id="worker"
        ),
        pytest.param(["etcd.service"], ["etcd", "api"], id="etcd alone"),
    ],
)
def test_a_role_has_the_phases_of_its_units(
    tmp_path: Path, units: list[str], names: list[str]
) -> None:
    phases = phases_of(manifest_of(tmp_path, units=units))

    assert [phase.name for phase in phases] == names


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        ([{"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "False"}], False),
        ([{"type": "Ready", "status": "Unknown"}], False),
        ([{"type": "DiskPressure", "status": "True"}], False),
        (None, False),
    ],
)
def test_ready_is_the_ready_condition(conditions: Any, ready: bool) -> None:
    assert node_is_ready({"status": {"conditions": conditions}}) is ready


@pytest.mark.parametrize(
    ("node", "registered"),
    [
        pytest.param({"status": {"nodeInfo": {"bootID": "b-2"}}}, True, id="now"),
        pytest.param({"status": {"nodeInfo": {"bootID": "b-1"}}}, False, id="before the reboot"),
        pytest.param({"status": {"nodeInfo": {"bootID": ""}}}, False, id="only labelled"),
        pytest.param({"kind": "Status", "status": "Failure"}, False, id="not found"),
    ],
)
def test_only_a_node_of_this_boot_is_registered(node: dict[str, Any], registered: bool) -> None:
    assert is_of_this_boot(node, "b-2") is registered


SHOWN = """\
Id=etcd.service
ActiveState=active
SubState=running
NRestarts=0

Id=kubelet.service
ActiveState=activating
SubState=auto-restart
NRestarts=4

Id=kube-proxy.service
ActiveState=active
SubState=running
NRestarts=9
"""


def test_failing_units_are_those_down_or_in_a_loop() -> None:
    def output_of(argv: Any) -> str:
        return SHOWN if argv[0] == "systemctl" else "last words\n"

    assert find_failing(["a"], output_of=output_of) == [
        ("kubelet.service", "activating/auto-restart,restarts:4", "last words"),
        ("kube-proxy.service", "active/running,restarts:9", "last words"),
    ]


def test_a_systemd_that_does_not_answer_blames_nobody() -> None:
    assert find_failing(["a"], output_of=lambda _argv: "") == []


def test_phone_home_posts_each_phase() -> None:
    got: list[dict[str, Any]] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        got.append(json.loads(body))
        send_json(handler, 200, {})

    with serving(answer) as url:
        phone = Phone(url, cluster="solo", node="solo-1")
        phone.tell("api", 3.5)
        phone.tell("ready", 4.5)
        phone.hang_up()

    assert got == [
        {"cluster": "solo", "node": "solo-1", "phase": "api", "t": 3.5},
        {"cluster": "solo", "node": "solo-1", "phase": "ready", "t": 4.5},
    ]


def test_phone_home_tries_three_times_and_lets_it_be() -> None:
    attempts: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        attempts.append(json.loads(body)["phase"])
        send_json(handler, 503, {})

    with serving(answer) as url:
        phone = Phone(url, cluster="solo", node="solo-1", sleep=lambda _s: None)
        phone.tell("api", 3.5)
        phone.tell("ready", 4.5)
        phone.hang_up()

    assert attempts == ["api"] * 3 + ["ready"] * 3


def test_a_missing_console_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say("hello", console=str(tmp_path / "absent" / "console"))

    assert capsys.readouterr().out == "hello\n"


def test_the_console_gets_whole_lines(tmp_path: Path) -> None:
    console = tmp_path / "console"
    console.touch()

    say("hello", console=str(console))

    assert console.read_text() == "hello\n"


def test_a_reason_stays_on_one_line_between_its_quotes() -> None:
    assert quote('a "b"\n c\\d') == "\"a 'b' c/d\""
