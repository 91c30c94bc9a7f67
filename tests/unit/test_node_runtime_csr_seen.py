# SPDX-License-Identifier: Apache-2.0
"""Does the approver see who else wants a name, and that once for all who ask at a time?"""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

from tests.support.csrs import BATCH, DECLARED, KEY, NOW, client, dns, ip, other_key, serving

from kubekiln_node.csr_approver import serve  # isort: skip
from kubekiln_node.csr_client import ApiError  # isort: skip
from kubekiln_node.csr_pools import Facts, claim_of, facts_about  # isort: skip
from kubekiln_node.csr_seen import Seen  # isort: skip


def gathered(
    csr: dict[str, Any], *requests: dict[str, Any], nodes: tuple[dict[str, Any], ...] = ()
) -> Facts:
    claim = claim_of(csr, (BATCH,), DECLARED)
    assert claim is not None
    seen = Seen([csr, *requests], lambda: nodes, NOW)
    return facts_about(csr, claim, own=None, seen=seen)


def approved(csr: dict[str, Any], *, ago: timedelta) -> dict[str, Any]:
    when = (NOW - ago).strftime("%Y-%m-%dT%H:%M:%SZ")
    return csr | {"status": {"conditions": [{"type": "Approved", "lastUpdateTime": when}]}}


def test_of_two_machines_of_one_name_the_first_gets_it_whoever_decides() -> None:
    one, two = client(called="csr-1"), client(called="csr-2", pem=other_key("batch-1"))

    assert gathered(one, two).rival == ""
    assert gathered(two, one).rival == "csr-1"
    assert gathered(two, approved(one, ago=timedelta(seconds=5))).rival == "csr-1"


def test_who_asks_for_anothers_name_without_the_token_keeps_nobody_out() -> None:
    worker = client(called="csr-0", username="system:node:batch-2", groups=["system:nodes"])
    machine = client(called="csr-1", pem=other_key("batch-1"))

    assert gathered(machine, worker).rival == ""


def made(csr: dict[str, Any], at: str) -> dict[str, Any]:
    return csr | {"metadata": csr["metadata"] | {"creationTimestamp": f"2026-11-26T{at}Z"}}


def test_a_name_that_was_given_is_not_given_again_though_its_node_never_came() -> None:
    one, two = client(called="csr-1"), client(called="csr-2", pem=other_key("batch-1"))
    given = approved(one, ago=timedelta(minutes=59))

    assert gathered(two, given).rival == "csr-1"
    # What asks in the name of another, or wasn't judged since there was no Node, shows nothing.
    of_other = approved(made(serving(name="batch-2"), "05:59:55"), ago=timedelta(0))
    pending = made(serving(), "05:59:55")
    assert gathered(two, given, of_other, pending).rival == "csr-1"


def test_a_name_is_free_again_once_its_node_was_there_and_is_deleted() -> None:
    one, two = client(called="csr-1"), client(called="csr-3", pem=other_key("batch-1"))
    given = approved(one, ago=timedelta(seconds=10))
    served = approved(made(serving(), "05:59:55"), ago=timedelta(seconds=2))

    assert gathered(two, given, served).rival == ""
    # To the next one it was given again: that its first machine had a Node is no news.
    again = approved(made(two, "05:59:58"), ago=timedelta(seconds=1))
    three = client(called="csr-4", pem=other_key("batch-1"))
    assert gathered(three, given, served, again).rival == "csr-3"


def test_the_same_machine_may_ask_twice() -> None:
    assert KEY.curve.name == "secp256r1"
    assert gathered(client(called="csr-2"), client(called="csr-1")).rival == ""


class FakeCluster:
    """An API with requests and Nodes; a Node comes after it was asked for once."""

    def __init__(self, *requests: dict[str, Any]) -> None:
        self.requests = list(requests)
        self.nodes: dict[str, dict[str, Any]] = {}
        self.decided: dict[str, str] = {}
        self.late: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.asked: list[str] = []

    def list_all(self) -> tuple[list[dict[str, Any]], str]:
        self.asked.append("requests")
        return [copy.deepcopy(request) for request in self.requests], "1"

    def watch(self, version: str) -> Any:
        assert version == "1"
        for request in self.events:
            self.requests.append(request)
        while self.events:
            yield copy.deepcopy(self.events.pop(0))

    def get_node(self, name: str) -> dict[str, Any] | None:
        found = self.nodes.get(name)
        self.nodes |= self.late
        return found

    def list_nodes(self) -> list[dict[str, Any]]:
        self.asked.append("nodes")
        return list(self.nodes.values())

    def decide(self, csr: dict[str, Any], condition: dict[str, Any]) -> None:
        if csr["metadata"]["name"] in self.decided:
            raise ApiError(409, "decided")
        self.decided[csr["metadata"]["name"]] = condition["type"]
        for request in self.requests:
            if request["metadata"]["name"] == csr["metadata"]["name"]:
                request["status"] = {"conditions": [condition]}


def test_a_machine_joins_and_serves_as_soon_as_its_node_is_there() -> None:
    cluster = FakeCluster(client(), serving(dns("batch-1"), ip("10.80.0.130")))
    node = {"metadata": {"name": "batch-1"}}
    addresses = [{"type": "InternalIP", "address": "10.80.0.130"}]
    cluster.late = {"batch-1": {**node, "status": {"addresses": addresses}}}
    pauses: list[float] = []

    serve(cluster, {}, (BATCH,), sleep=pauses.append, log=lambda _line: None, rounds=3)

    assert cluster.decided == {"csr-1": "Approved", "csr-2": "Approved"}


def test_a_node_that_never_comes_is_looked_for_ever_more_rarely() -> None:
    cluster = FakeCluster(serving(dns("batch-1")))
    pauses: list[float] = []

    serve(cluster, {}, (BATCH,), sleep=pauses.append, log=lambda _line: None, rounds=6)

    assert pauses == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert cluster.decided == {}


def node_of(name: str, address: str = "", **labels: str) -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": address}] if address else []
    return {"metadata": {"name": name, "labels": labels}, "status": {"addresses": addresses}}


def decide_all(cluster: FakeCluster, *, rounds: int = 1) -> None:
    serve(cluster, {}, (BATCH,), sleep=lambda _s: None, log=lambda _line: None, rounds=rounds)


def test_machines_that_come_at_once_are_decided_by_one_look() -> None:
    cluster = FakeCluster()
    cluster.events = [
        client(f"batch-{i}", called=f"csr-{i}", pem=other_key(f"batch-{i}")) for i in range(3)
    ]

    decide_all(cluster, rounds=2)

    assert cluster.decided == dict.fromkeys(["csr-0", "csr-1", "csr-2"], "Approved")
    assert cluster.asked == ["requests", "requests", "nodes"]


def test_whoever_waits_for_its_node_costs_no_list_of_all_nodes() -> None:
    cluster = FakeCluster(serving(dns("batch-1")))

    decide_all(cluster, rounds=3)

    assert cluster.asked == ["requests"] * 3


def test_of_two_of_one_name_in_one_look_one_gets_it() -> None:
    cluster = FakeCluster(client(called="csr-1"), client(called="csr-2", pem=other_key("batch-1")))

    decide_all(cluster)

    assert cluster.decided == {"csr-1": "Approved", "csr-2": "Denied"}


def test_a_node_is_the_pools_by_its_name_whatever_label_it_gives_itself() -> None:
    nodes = (
        node_of("batch-2", "10.80.0.131"),
        node_of("batch-3", "10.80.0.132", **{"kubekiln/pool": "web"}),
        node_of("m-1", "10.80.0.11", **{"kubekiln/pool": "batch"}),
        node_of("batch-1"),
    )

    assert gathered(client(), nodes=nodes).others == {
        "batch-2": frozenset({"10.80.0.131"}),
        "batch-3": frozenset({"10.80.0.132"}),
    }


def test_machines_that_were_let_in_and_are_not_there_yet_count() -> None:
    given = [
        approved(client(f"batch-{i}", called=f"csr-{i}", pem=other_key(f"batch-{i}")), ago=ago)
        for i, ago in enumerate([timedelta(seconds=119), timedelta(seconds=1), timedelta(hours=1)])
    ]
    web = approved(client("web-1", called="csr-w"), ago=timedelta(0))
    asks = client("batch-9", called="csr-9")

    # The first has its Node already, the last one never came.
    found = gathered(asks, *given, web, nodes=(node_of("batch-0", "10.80.0.130"),))

    assert found.others == {"batch-0": frozenset({"10.80.0.130"}), "batch-1": frozenset()}


def test_a_pool_is_full_though_all_its_machines_asked_at_once() -> None:
    cluster = FakeCluster(
        *[
            client(f"batch-{i}", called=f"csr-{i}", pem=other_key(f"batch-{i}"))
            for i in range(BATCH.max_nodes + 2)
        ]
    )

    decide_all(cluster)

    assert list(cluster.decided.values()) == ["Approved"] * BATCH.max_nodes + ["Denied"] * 2
