# SPDX-License-Identifier: Apache-2.0
"""Does a machine of a pool say what it waits for?"""

from __future__ import annotations

import base64
import itertools
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support.csrs import make_request, subject
from tests.support.node_runtime import POOL_FIELDS, make_certificates, send_json
from tests.support.node_runtime import serving as api_of

from kubekiln_node import joining  # isort: skip
from kubekiln_node.api import client_context, get  # isort: skip
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
from kubekiln_node.pool import Pool  # isort: skip
from kubekiln_node.waiting import Rarely  # isort: skip

POOL = Pool(**POOL_FIELDS)


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
