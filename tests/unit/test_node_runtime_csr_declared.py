# SPDX-License-Identifier: Apache-2.0
"""Does a node that was declared after a master get its certificate, and nobody by a false list?"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from kubekiln.operations.nodes import manifest
from tests.support.clusters import make_cluster
from tests.support.csr_api import FakeApi, kubeconfig, named
from tests.support.csrs import NODES, SUBJECT, csr, dns, ip, make_request
from tests.support.node_runtime import Certificates, make_certificates, send_json, serving

from kubekiln_node.csr_approver import serve  # isort: skip
from kubekiln_node.csr_client import DECLARED, CsrClient, read_kubeconfig  # isort: skip
from kubekiln_node.csr_declared import read_declared  # isort: skip
from kubekiln_node.csr_pools import KnownPool  # isort: skip
from kubekiln_node.csr_rules import unknown_node  # isort: skip

LATER = "solo-3"
USER = f"system:node:{LATER}"
LISTED = {"solo-3": ["10.80.0.13", "fd00::13"], "w-[01-20]": ["10.80.1.1"]}


def declared(nodes: object = LISTED, **data: Any) -> dict[str, Any]:
    return {"kind": "ConfigMap", "data": {"nodes": json.dumps(nodes), **data}}


def request_of(node: str = LATER, *addresses: str, called: str = "csr-later") -> dict[str, Any]:
    subject = (SUBJECT[0], (SUBJECT[1][0], f"system:node:{node}"))
    names = (dns(node), *(ip(a) for a in addresses or ("10.80.0.13",)))
    csr = make_request(names, subject=subject)
    return named(called, request=csr, username=f"system:node:{node}")


class Api(FakeApi):
    """Has a list of declared nodes, too; each answer is given once, the last for ever."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        super().__init__()
        self.answers = list(answers)
        self.asked = 0

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path != DECLARED:
            super()._get(handler)
            return
        self.asked += 1
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        send_json(handler, status, body)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
def decide(tmp_path: Path, certificates: Certificates) -> Any:
    """Let an approver look at what an API has; gives its log."""

    def run(api: Api, *requests: dict[str, Any], rounds: int = 1, pools: Any = ()) -> list[str]:
        api.listed = list(requests)
        lines: list[str] = []
        with serving(api.answer, certificates) as url:
            client = CsrClient(read_kubeconfig(str(kubeconfig(tmp_path, url))))
            serve(client, NODES, pools, sleep=lambda _s: None, log=lines.append, rounds=rounds)
        return lines

    return run


@pytest.mark.parametrize(
    ("node", "addresses"),
    [(LATER, ("10.80.0.13",)), (LATER, ("10.80.0.13", "fd00:0::13")), ("w-07", ("10.80.1.7",))],
)
def test_a_node_that_is_listed_gets_its_own(
    decide: Any, node: str, addresses: tuple[str, ...]
) -> None:
    api = Api((200, declared()))

    decide(api, request_of(node, *addresses))

    assert api.decided["csr-later"]["type"] == "Approved"


@pytest.mark.parametrize(
    ("node", "address"), [(LATER, "10.80.0.12"), (LATER, "10.80.1.1"), ("w-07", "10.80.1.8")]
)
def test_a_node_that_is_listed_is_denied_anothers_address(
    decide: Any, node: str, address: str
) -> None:
    api = Api((200, declared()))

    decide(api, request_of(node, address))

    assert api.decided["csr-later"]["type"] == "Denied"
    assert f"not this node's: IPAddress {address}" in api.decided["csr-later"]["message"]


def test_a_node_may_not_ask_for_another_ones_name(decide: Any) -> None:
    api = Api((200, declared()))
    stranger = named("csr-later", request=make_request((dns("w-01"),)), username=USER)

    decide(api, stranger)

    assert api.decided["csr-later"]["type"] == "Denied"


UNDECIDED: dict[str, tuple[int, object, str]] = {
    "no list": (404, {}, "there is no ConfigMap kube-system/kubekiln-nodes"),
    "not listed": (200, declared({"solo-4": ["10.80.0.14"]}), "it isn't in ConfigMap"),
    "no right": (403, {}, "a master with user-data rendered anew may"),
    "no data": (200, {"kind": "ConfigMap"}, "makes no sense (it has no data.nodes)"),
    "no text": (200, declared(nodes=1) | {"data": {"nodes": {}}}, "has no data.nodes"),
    "no JSON": (200, {"data": {"nodes": "solo-3: [10.80.0.13]"}}, "makes no sense"),
    "no object": (200, declared([LATER]), "makes no sense"),
    "empty": (200, declared({}), "makes no sense"),
    "no addresses": (200, declared({LATER: []}), "makes no sense"),
    "text for a list": (200, declared({LATER: "10.80.0.13"}), "makes no sense"),
    "a number": (200, declared({LATER: [0x0A50000D]}), "an address that is no text"),
    "one bad of many": (200, declared(LISTED | {"x": ["10.80.0"]}), "makes no sense"),
    "all names": (200, declared({"w-[1-999999]": ["10.0.0.1"]}), "makes no sense"),
    "past the end": (200, declared({"w-[1-9]": ["255.255.255.250"]}), "makes no sense"),
}


@pytest.mark.parametrize("name", UNDECIDED)
def test_without_a_list_that_makes_sense_it_stays_undecided_and_says_why(
    decide: Any, name: str
) -> None:
    status, body, why = UNDECIDED[name]
    api = Api((status, body))

    lines = decide(api, request_of(), named("csr-known"), rounds=3)

    assert set(api.decided) == {"csr-known"}, "others go on"
    (said,) = [line for line in lines if "csr-later" in line]
    assert "node solo-3 came after this master's user-data" in said
    assert why in said
    assert status == 403 or "`kubekiln cluster nodes CLUSTER --apply`" in said


def test_a_request_is_decided_once_its_node_was_listed(decide: Any) -> None:
    api = Api((404, {}), (200, declared()))

    decide(api, request_of(), rounds=2)

    assert api.decided["csr-later"]["type"] == "Approved"


def test_an_api_that_fails_to_give_the_list_is_asked_again(decide: Any) -> None:
    api = Api((500, {}), (200, declared()))

    lines = decide(api, request_of(), rounds=2)

    assert any("again in" in line for line in lines)
    assert api.decided["csr-later"]["type"] == "Approved"


def test_what_the_masters_own_file_says_of_a_node_wins(decide: Any) -> None:
    api = Api((200, declared({"solo-1": ["10.80.0.99"]})))

    decide(api, request_of("solo-1", "10.80.0.99"), named("csr-own"))

    assert api.decided["csr-later"]["type"] == "Denied"
    assert api.decided["csr-own"]["type"] == "Approved"
    assert api.asked == 0


def test_no_list_makes_a_name_of_a_pool_another_ones(decide: Any) -> None:
    pool = KnownPool("p", "solo-", "10.80.0.0/24", 9)
    api = Api((200, declared()))

    decide(api, request_of(), pools=(pool,))

    assert api.asked == 0


@pytest.mark.parametrize(
    "spec",
    [
        {"username": "solo-3"},
        {"username": USER, "signerName": "kubernetes.io/kube-apiserver-client-kubelet"},
    ],
)
def test_the_list_matters_to_nodes_serving_certificates_alone(spec: dict[str, Any]) -> None:
    assert unknown_node(csr(**spec), NODES) is None


def test_a_decided_request_needs_no_list() -> None:
    decided = csr(username=USER) | {"status": {"conditions": [{"type": "Denied"}]}}

    assert unknown_node(decided, NODES) is None


def test_masters_read_the_list_that_the_command_writes() -> None:
    cluster = make_cluster(
        nodes=[
            {"name": "m", "role": "master", "address": "10.80.0.11"},
            {"name": "e", "role": "etcd", "address": "10.80.0.12"},
            *({"name": f"w-{i:02}", "role": "worker", "address": f"10.80.0.{20 + i}"}
              for i in range(1, 21)),
        ]
    )  # fmt: skip
    written = json.loads(manifest(cluster))
    metadata = written["metadata"]

    read = read_declared(written)

    assert f"/api/v1/namespaces/{metadata['namespace']}/configmaps/{metadata['name']}" == DECLARED
    assert read == {
        "m": {"10.80.0.11"}, **{f"w-{i:02}": {f"10.80.0.{20 + i}"} for i in range(1, 21)}
    }  # fmt: skip
