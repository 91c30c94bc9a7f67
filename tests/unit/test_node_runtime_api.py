# SPDX-License-Identifier: Apache-2.0
"""Does the node's small API client trust only the cluster's CA, and survive whatever answers?"""

from __future__ import annotations

import errno
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import (
    Certificates,
    make_certificates,
    sample_manifest,
    send_json,
    serving,
)

from kubekiln_node import api as api_client  # isort: skip
from kubekiln_node import wait_for_api  # isort: skip
from kubekiln_node.api import (  # isort: skip
    Answer,
    Silence,
    client_context,
    get,
    parse_answer,
    split_server,
)
from kubekiln_node.manifest import read_manifest  # isort: skip
from kubekiln_node.phases import ApiView, accepts_tcp, accepts_unix  # isort: skip


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


def api(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
    """Answer like an API server that has one Ready node, but only a client with a certificate."""
    client: Any = handler.connection
    if not client.getpeercert():
        send_json(handler, 401, {})
    elif handler.path == "/readyz":
        send_json(handler, 200, "ok")
    elif handler.path == "/api/v1/nodes/solo-1":
        conditions = [{"type": "Ready", "status": "True"}]
        node_info = {"bootID": "b-2"}
        send_json(handler, 200, {"status": {"conditions": conditions, "nodeInfo": node_info}})
    else:
        send_json(handler, 404, {})


def view(tmp_path: Path, server: str, certificates: Certificates, boot_id: str = "b-2") -> ApiView:
    report = {
        "server": server,
        "ca": str(certificates.ca),
        "cert": str(certificates.client),
        "key": str(certificates.client_key),
    }
    path = tmp_path / "node.json"
    path.write_text(json.dumps(sample_manifest(report=report)))
    return ApiView(read_manifest(str(path)), boot_id)


def test_the_phases_are_read_from_a_real_tls_server(
    tmp_path: Path, certificates: Certificates
) -> None:
    with serving(api, certificates) as url:
        seen = view(tmp_path, url, certificates)

        assert seen.is_serving()
        assert seen.has_node()
        assert seen.is_node_ready()


def test_a_server_that_knows_no_such_node_yet_serves(
    tmp_path: Path, certificates: Certificates
) -> None:
    def empty(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        send_json(handler, 404 if handler.path.startswith("/api/v1/nodes/") else 403, {})

    with serving(empty, certificates) as url:
        seen = view(tmp_path, url, certificates)

        assert seen.is_serving()
        assert not seen.has_node()


def test_a_machine_without_a_certificate_asks_for_the_servers_health(
    tmp_path: Path, certificates: Certificates
) -> None:
    statuses = iter([403, 200])

    def answer(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        send_json(handler, next(statuses) if handler.path == "/readyz" else 404, {})

    with serving(answer, certificates) as url:
        report = {"server": url, "ca": str(certificates.ca), "cert": "", "key": ""}
        path = tmp_path / "node.json"
        path.write_text(json.dumps(sample_manifest(report=report)))
        seen = ApiView(read_manifest(str(path)), "b-2")

        assert [seen.is_serving(), seen.is_serving()] == [False, True]


def test_a_node_that_was_ready_before_the_reboot_is_not_ready(
    tmp_path: Path, certificates: Certificates
) -> None:
    with serving(api, certificates) as url:
        seen = view(tmp_path, url, certificates, boot_id="b-3")

        assert not seen.has_node()
        assert not seen.is_node_ready()


def test_a_server_that_is_away_is_a_no(tmp_path: Path, certificates: Certificates) -> None:
    with serving(api, certificates) as url:
        pass

    assert not view(tmp_path, url, certificates).is_serving()


def test_a_missing_credential_is_a_no_until_it_is_there(
    tmp_path: Path, certificates: Certificates
) -> None:
    away = certificates.client.rename(tmp_path / "later")
    with serving(api, certificates) as url:
        seen = view(tmp_path, url, certificates)
        before = seen.is_serving()
        away.rename(certificates.client)
        after = seen.is_serving()

    assert (before, after) == (False, True)


def test_a_server_of_another_ca_is_not_believed(tmp_path: Path, certificates: Certificates) -> None:
    other = tmp_path / "other"
    other.mkdir()
    theirs = make_certificates(other)
    context = client_context(ca=str(theirs.ca), cert=str(theirs.client), key=str(theirs.client_key))

    with serving(api, certificates) as url:
        assert get(url, "/readyz", context) == Answer(0, b"", Silence.MUTE)


def test_silence_tells_whether_anybody_is_there(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    context = client_context(ca=str(certificates.ca), cert="", key="")
    monkeypatch.setattr(api_client, "TIMEOUT_S", 0.2)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{busy.getsockname()[1]}"
        before = get(url, "/members", context).silence
        busy.listen()
        after = get(url, "/members", context).silence

    assert (before, after) == (Silence.REFUSED, Silence.MUTE)

    def no_route(*_: object) -> None:
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(api_client.socket, "create_connection", no_route)
    assert get(url, "/members", context).silence is Silence.UNREACHABLE


@pytest.mark.parametrize("data", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.0 abc\r\n\r\n", b"\x15\x03"])
def test_what_is_no_http_counts_as_no_answer(data: bytes) -> None:
    assert parse_answer(data).status == 0


def test_a_body_that_is_no_object_reads_as_an_empty_one() -> None:
    assert Answer(200, b"[1]").json() == {}
    assert Answer(200, b"{").json() == {}


@pytest.mark.parametrize(
    ("server", "parts"),
    [
        ("https://127.0.0.1:6443", ("127.0.0.1", 6443)),
        ("https://[::1]:6443/", ("::1", 6443)),
        ("https://api.lab:443", ("api.lab", 443)),
    ],
)
def test_servers_are_split_into_host_and_port(server: str, parts: tuple[str, int]) -> None:
    assert split_server(server) == parts


def test_sockets_are_asked_whether_they_accept(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    before = accepts_unix(path)
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as tcp:
        unix.bind(path)
        unix.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        port = tcp.getsockname()[1]

        assert (before, accepts_unix(path)) == (False, True)
        assert accepts_tcp(f"127.0.0.1:{port}")
    assert not accepts_tcp(f"127.0.0.1:{port}")


def run_wait(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["wait-for-api", *args])
    status: int = wait_for_api.main()
    return status


def test_waiting_ends_when_the_server_is_ready(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    statuses = iter([500, 500, 200])
    pauses: list[float] = []
    monkeypatch.setattr(wait_for_api.time, "sleep", pauses.append)

    def answer(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        send_json(handler, next(statuses), {})

    with serving(answer, certificates) as url:
        context = client_context(
            ca=str(certificates.ca),
            cert=str(certificates.client),
            key=str(certificates.client_key),
        )
        clock = iter([0.0, 0.0, 0.01, 1.0, 2.0, 3.0, 3.0])
        status = wait_for_api.wait(
            f"{url}/readyz", context, limit_s=60, sleep=pauses.append, clock=lambda: next(clock)
        )

    assert status == 200
    # A quick look is soon followed by the next, an expensive one by a rest.
    assert pauses == [wait_for_api.PAUSE_S, wait_for_api.LONGEST_REST_S]


def test_waiting_needs_no_client_certificate(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    def answer(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        send_json(handler, 200 if handler.path == "/readyz?verbose" else 404, {})

    with serving(answer, certificates) as url:
        assert run_wait(monkeypatch, f"{url}/readyz?verbose", "5", str(certificates.ca)) == 0


def test_waiting_shows_the_certificate_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    pair = (str(certificates.client), str(certificates.client_key))
    with serving(api, certificates) as url:
        known = run_wait(monkeypatch, f"{url}/readyz", "0", str(certificates.ca), *pair)
        unknown = run_wait(monkeypatch, f"{url}/readyz", "0", str(certificates.ca))

    assert (known, unknown) == (0, 1)


def test_waiting_gives_up_with_the_last_answer(
    monkeypatch: pytest.MonkeyPatch,
    certificates: Certificates,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with serving(lambda handler, _: send_json(handler, 500, {}), certificates) as url:
        assert run_wait(monkeypatch, f"{url}/readyz", "0", str(certificates.ca)) == 1

    assert "still answers 500" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("https://x:1/", "5"),
        ("https://x:1/", "soon", "ca"),
        ("https://x:1/", "5", "ca", "certificate"),
    ],
)
def test_wrong_usage_is_exit_2(monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]) -> None:
    assert run_wait(monkeypatch, *args) == 2


def test_a_missing_ca_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_wait(monkeypatch, "https://127.0.0.1:1/", "0", "/absent/ca.crt") == 1
    assert "/absent/ca.crt" in capsys.readouterr().err
