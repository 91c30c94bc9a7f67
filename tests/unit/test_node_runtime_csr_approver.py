# SPDX-License-Identifier: Apache-2.0
"""Does the approver decide over a real TLS API, and outlive that API's restarts?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.csr_api import FakeApi, kubeconfig, named
from tests.support.csrs import NODES
from tests.support.node_runtime import Certificates, make_certificates, serving

from kubekiln_node import csr_approver  # isort: skip
from kubekiln_node.csr_approver import read_config, serve  # isort: skip
from kubekiln_node.csr_client import ApiError, CsrClient, read_kubeconfig  # isort: skip
from kubekiln_node.csr_rules import judge  # isort: skip


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


def run(tmp_path: Path, certificates: Certificates, api: FakeApi, rounds: int = 1) -> list[str]:
    lines: list[str] = []
    with serving(api.answer, certificates) as url:
        client = CsrClient(read_kubeconfig(str(kubeconfig(tmp_path, url))))
        serve(client, NODES, sleep=lambda _s: None, log=lines.append, rounds=rounds)
    return lines


def test_listed_and_watched_requests_are_decided(
    tmp_path: Path, certificates: Certificates
) -> None:
    api = FakeApi()
    api.listed = [named("csr-a"), named("csr-b", usages=["client auth"])]
    api.events = [{"type": "ADDED", "object": named("csr-c")}]

    lines = run(tmp_path, certificates, api)

    assert {name: it["type"] for name, it in api.decided.items()} == {
        "csr-a": "Approved",
        "csr-b": "Denied",
        "csr-c": "Approved",
    }
    assert "client auth" in api.decided["csr-b"]["message"]
    assert any(line.startswith("csr-approver: csr-b deny:") for line in lines)


def test_the_watch_goes_on_from_the_list(tmp_path: Path, certificates: Certificates) -> None:
    api = FakeApi()

    run(tmp_path, certificates, api)

    assert "resourceVersion=7" in api.queries[1]
    assert all("kubelet-serving" in query for query in api.queries)


def test_an_api_that_is_starting_is_asked_again(tmp_path: Path, certificates: Certificates) -> None:
    api = FakeApi()
    api.failing_requests = 2
    api.listed = [named("csr-a")]

    lines = run(tmp_path, certificates, api, rounds=3)

    assert "csr-a" in api.decided
    assert sum("again in" in line for line in lines) == 2


def test_an_expired_watch_lists_anew(tmp_path: Path, certificates: Certificates) -> None:
    api = FakeApi()
    api.events = [{"type": "ERROR", "object": {"code": 410}}]

    run(tmp_path, certificates, api, rounds=2)

    assert ["watch=1" in query for query in api.queries] == [False, True, False, True]


def test_a_request_that_somebody_else_decided_is_no_error(
    tmp_path: Path, certificates: Certificates
) -> None:
    api = FakeApi()
    api.listed = [named("csr-a")]
    api.put_status = 409

    assert run(tmp_path, certificates, api) == []


def test_a_stranger_is_mentioned_once(tmp_path: Path, certificates: Certificates) -> None:
    api = FakeApi()
    api.listed = [named("csr-a", username="system:node:stranger")]

    lines = run(tmp_path, certificates, api, rounds=3)

    assert len(lines) == 1
    assert "stranger" in lines[0]


def test_a_request_that_nobody_foresaw_stops_no_other(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge_or_die(request: dict[str, Any], nodes: Any) -> Any:
        if request["metadata"]["name"] == "csr-a":
            raise RuntimeError("unforeseen")
        return judge(request, nodes)

    monkeypatch.setattr(csr_approver, "judge", judge_or_die)
    api = FakeApi()
    api.listed = [named("csr-a"), named("csr-b")]
    api.events = [{"type": "ADDED", "object": named("csr-c")}]

    lines = run(tmp_path, certificates, api, rounds=2)

    assert set(api.decided) == {"csr-b", "csr-c"}
    assert [line for line in lines if " csr-a " in line] == [
        "csr-approver: csr-a left alone: it can't be judged: RuntimeError('unforeseen')"
    ]


def test_a_decision_that_the_api_takes_for_none_stops_no_other(
    tmp_path: Path, certificates: Certificates
) -> None:
    api = FakeApi()
    api.listed = [named("csr-a"), named("csr-b")]
    api.put_status = 422

    lines = run(tmp_path, certificates, api)

    assert [line.split(":")[1] for line in lines] == [
        " csr-a can't be decided", " csr-b can't be decided"
    ]  # fmt: skip
    assert any("watch=1" in query for query in api.queries)


def test_a_reason_is_never_longer_than_etcd_takes(
    tmp_path: Path, certificates: Certificates
) -> None:
    api = FakeApi()
    api.listed = [named("csr-a", usages=["x" * 100_000])]

    run(tmp_path, certificates, api)

    assert len(api.decided["csr-a"]["message"]) == csr_approver.LONGEST_REASON


def test_pauses_grow_to_a_bound_while_the_api_is_away() -> None:
    pauses: list[float] = []

    class Away:
        def list_all(self) -> Any:
            raise ConnectionRefusedError("refused")

        def watch(self, version: str) -> Any:
            raise AssertionError(version)

        def decide(self, csr: Any, condition: Any) -> None:
            raise AssertionError(csr, condition)

    serve(Away(), NODES, sleep=pauses.append, log=lambda _line: None, rounds=8)

    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


def test_a_refusal_carries_its_status(tmp_path: Path, certificates: Certificates) -> None:
    api = FakeApi()
    api.put_status = 403

    with serving(api.answer, certificates) as url:
        client = CsrClient(read_kubeconfig(str(kubeconfig(tmp_path, url))))
        with pytest.raises(ApiError) as caught:
            client.decide(named("csr-a"), {"type": "Approved"})

    assert caught.value.status == 403


def test_files_of_a_kubeconfig_are_relative_to_it(tmp_path: Path) -> None:
    config = read_kubeconfig(str(kubeconfig(tmp_path, "https://127.0.0.1:1")))

    assert config.ca == str(tmp_path / "ca.crt")
    assert config.cert == str(tmp_path / "client.crt")


def test_a_kubeconfig_without_certificate_files_is_named(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, "https://127.0.0.1:1", token="x")

    with pytest.raises(ValueError, match="client-certificate"):
        read_kubeconfig(str(path))


@pytest.mark.parametrize("text", ["{", "[]", '{"nodes": {}}', '{"kubeconfig": "x", "nodes": {}}'])
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "csr-approver.json"
    path.write_text(text)

    with pytest.raises(ValueError):  # noqa: PT011  (four different ones)
        read_config(str(path))


def test_a_missing_configuration_is_exit_1_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "absent.json"
    monkeypatch.setattr("sys.argv", ["csr-approver", f"--config={path}"])

    assert csr_approver.main() == 1
    assert str(path) in capsys.readouterr().err
