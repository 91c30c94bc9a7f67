# SPDX-License-Identifier: Apache-2.0
"""Do the objects of a directory get into the cluster, and is every refusal said?"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.node_runtime import Certificates, make_certificates, send_json, serving

from kubekiln_node import apply  # isort: skip

ROLE = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: a:b}\n"
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: n}\ndata: {k: v}\n"
DISCOVERY: dict[str, list[dict[str, Any]]] = {
    "/api/v1": [
        {"kind": "ConfigMap", "name": "configmaps", "namespaced": True},
        {"kind": "Pod", "name": "pods/status", "namespaced": True},
    ],
    "/apis/rbac.authorization.k8s.io/v1": [
        {"kind": "ClusterRole", "name": "clusterroles", "namespaced": False}
    ],
}


class FakeApi:
    """Answers discovery; keeps what is applied."""

    def __init__(self) -> None:
        self.applied: dict[str, Any] = {}
        self.asked: list[str] = []
        self.refuse: dict[str, int] = {}
        self.kinds = dict(DISCOVERY)

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        self.asked.append(f"{method} {path.partition('?')[0]}")
        place = urlsplit(path).path
        if method == "GET":
            found = self.kinds.get(place)
            return (200, {"resources": found}) if found is not None else (404, {})
        if place in self.refuse:
            return self.refuse[place], {"message": 'unknown field "spec.x"'}
        self.applied[place] = body
        return 200 if len(self.applied) > 1 else 201, {}


def objects(tmp_path: Path, **files: str) -> list[tuple[str, dict[str, Any]]]:
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return list(apply.read_objects(str(tmp_path)))


def test_each_object_goes_to_its_own_place_and_kinds_are_asked_once(tmp_path: Path) -> None:
    client = FakeApi()

    problems = apply.apply_all(objects(tmp_path, b=f"{CONFIG}---\n{CONFIG}", a=ROLE), client)

    assert problems == []
    assert list(client.applied) == [
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/a%3Ab",
        "/api/v1/namespaces/n/configmaps/c",
    ]
    assert client.asked.count("GET /api/v1") == 1


def test_it_is_a_forced_and_strict_server_side_apply() -> None:
    assert parse_qs(apply.OPTIONS) == {
        "fieldManager": ["kubekiln"], "fieldValidation": ["Strict"], "force": ["true"]
    }  # fmt: skip


def test_what_is_refused_is_said_and_the_rest_is_applied(tmp_path: Path) -> None:
    client = FakeApi()
    client.refuse["/apis/rbac.authorization.k8s.io/v1/clusterroles/a%3Ab"] = 400

    problems = apply.apply_all(objects(tmp_path, a=ROLE, b=CONFIG), client)

    assert problems == ['a.yaml: ClusterRole a:b: 400 unknown field "spec.x"']
    assert list(client.applied) == ["/api/v1/namespaces/n/configmaps/c"]


def test_a_kind_that_is_not_served_yet_is_waited_for(tmp_path: Path) -> None:
    client = FakeApi()
    roles = client.kinds.pop("/apis/rbac.authorization.k8s.io/v1")

    def sleep(_seconds: float) -> None:
        client.kinds["/apis/rbac.authorization.k8s.io/v1"] = roles

    assert apply.apply_all(objects(tmp_path, a=ROLE), client, sleep=sleep) == []


def test_a_kind_that_never_comes_is_named(tmp_path: Path) -> None:
    clock = iter(range(0, 1000, 20))

    problems = apply.apply_all(
        objects(tmp_path, a=CONFIG.replace("ConfigMap", "ConfigMop")),
        FakeApi(),
        sleep=lambda _seconds: None,
        clock=lambda: float(next(clock)),
    )

    assert problems == ["a.yaml: ConfigMop c: the API has no kind ConfigMop in v1"]


def test_a_kind_that_never_comes_is_waited_for_once(tmp_path: Path) -> None:
    slept: list[float] = []
    time = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time[0] += seconds

    mop = CONFIG.replace("ConfigMap", "ConfigMop")
    problems = apply.apply_all(
        objects(tmp_path, a=mop, b=mop), FakeApi(), sleep=sleep, clock=lambda: time[0]
    )

    assert len(problems) == 2
    assert sum(slept) == apply.UNKNOWN_KIND_S


def test_a_server_that_is_away_is_said(tmp_path: Path) -> None:
    class Away:
        def ask(self, *_: object) -> tuple[int, dict[str, Any]]:
            raise ConnectionRefusedError(111, "Connection refused")

    problems = apply.apply_all(objects(tmp_path, a=ROLE), Away())

    assert problems == ["a.yaml: ClusterRole a:b: [Errno 111] Connection refused"]


def test_a_list_is_taken_apart(tmp_path: Path) -> None:
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [item, item]})

    assert objects(tmp_path, a=text) == [("a.yaml", item), ("a.yaml", item)]


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [", "a.yaml is no YAML"), ("a: b", "no Kubernetes object"), ("- a", "no")],
)
def test_a_file_that_holds_no_objects_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(apply.ApplyError, match=said):
        objects(tmp_path, a=text)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    (tmp_path / "pki").mkdir()
    return make_certificates(tmp_path / "pki")


@pytest.mark.parametrize(("status", "code"), [(200, 0), (422, 1)])
def test_the_program_applies_over_one_connection(
    tmp_path: Path,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    code: int,
) -> None:
    ports, bodies = set(), []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        client: Any = handler.connection
        assert client.getpeercert()
        ports.add(handler.client_address[1])
        if handler.command == "PATCH":
            assert handler.headers["Content-Type"] == "application/apply-patch+yaml"
            bodies.append(json.loads(body))
            send_json(handler, status, {"message": "no"})
        else:
            send_json(handler, 200, {"resources": DISCOVERY[handler.path]})

    directory = tmp_path / "objects"
    directory.mkdir()
    objects(directory, a=ROLE, b=CONFIG)
    with serving(answer, certificates, keeps_connections=True) as url:
        argv = ["apply", "--server", url, "--ca", str(certificates.ca), "--directory",
                str(directory), "--cert", str(certificates.client),
                "--key", str(certificates.client_key)]  # fmt: skip
        monkeypatch.setattr(sys, "argv", argv)
        ended: int = apply.main()

    assert ended == code
    assert [body["kind"] for body in bodies] == ["ClusterRole", "ConfigMap"]
    assert len(ports) == 1
    assert ("b.yaml: ConfigMap c: 422 no" in capsys.readouterr().err) == (code == 1)


def test_a_directory_that_is_not_there_is_said(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["apply", "--server", "https://127.0.0.1:1", "--ca", str(certificates.ca), "--cert",
            str(certificates.client), "--key", str(certificates.client_key), "--directory",
            "/absent"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", argv)

    assert apply.main() == 1
    assert "/absent" in capsys.readouterr().err
