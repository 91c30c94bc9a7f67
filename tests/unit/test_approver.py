# SPDX-License-Identifier: Apache-2.0
"""Does a master know each node of a large cluster exactly, in few bytes?"""

from __future__ import annotations

import gzip
import ipaddress
import json
from typing import Any

import pytest

import tests.support.node_runtime  # noqa: F401  (makes the next import possible)
from cloudinit.model import Node
from cloudinit.parts.approver import known_nodes

from kubekiln_node.csr_rules import read_addresses  # isort: skip


def nodes(*named: tuple[str, str]) -> list[Node]:
    return [Node.model_validate({"name": n, "role": "worker", "address": a}) for n, a in named]


def numbered(count: int, *, width: int = 4, first: str = "10.0.1.1", start: int = 1) -> list[Node]:
    base = ipaddress.IPv4Address(first)
    return nodes(*((f"w-{start + i:0{width}}", str(base + i)) for i in range(count)))


def written(cluster: list[Node]) -> dict[str, list[str]]:
    return dict(known_nodes(cluster))


def test_a_small_cluster_is_listed() -> None:
    assert written(numbered(3)) == {
        "w-0001": ["10.0.1.1"],
        "w-0002": ["10.0.1.2"],
        "w-0003": ["10.0.1.3"],
    }


def test_five_thousand_numbered_nodes_are_one_line() -> None:
    assert written(numbered(5000)) == {"w-[0001-5000]": ["10.0.1.1"]}


BOTH = [
    Node.model_validate(
        {"name": f"w-{i:02}", "role": "worker", "address": [f"10.0.1.{i}", f"fd00::{i:x}"]}
    )
    for i in range(1, 31)
]


def test_numbered_nodes_of_two_families_are_one_line() -> None:
    assert written(BOTH) == {"w-[01-30]": ["10.0.1.1", "fd00::1"]}


CLUSTERS: dict[str, list[Node]] = {
    "one": nodes(("a", "10.0.0.1")),
    "numbered": numbered(300),
    "unpadded": numbered(300, width=1),
    "from 98": numbered(40, width=2, start=98),
    "hole in the addresses": [*numbered(20), *numbered(20, start=21, first="10.0.2.1")],
    "hole in the numbers": [*numbered(20), *numbered(20, start=31, first="10.0.1.21")],
    "names without numbers": [*nodes(("a", "10.0.0.1"), ("b", "10.0.0.2")), *numbered(17)],
    "two families": BOTH,
    "a hole in IPv6": [*BOTH[:20], *BOTH[21:]],
    "short runs": [
        n for k in range(30) for n in numbered(10, start=100 * k + 1, first=f"10.0.{k}.1")
    ],  # fmt: skip
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_node_reads_back_each_name_with_its_own_address(name: str) -> None:
    cluster = CLUSTERS[name]

    read: dict[str, Any] = read_addresses(json.loads(json.dumps(written(cluster))))

    assert read == {node.name: set(map(str, node.addresses)) for node in cluster}


def test_even_a_cluster_without_any_order_fits_the_larger_platforms() -> None:
    base = ipaddress.IPv4Address("10.0.0.1")
    mixed = nodes(*((f"w-{i * 7919 % 10007:05}", str(base + i * 31 % 65000)) for i in range(5000)))

    size = len(gzip.compress(json.dumps(written(mixed)).encode(), 9))

    assert size < 65_000
