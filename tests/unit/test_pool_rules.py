# SPDX-License-Identifier: Apache-2.0
"""Does a wrong pool say what is wrong and where?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloudinit.poolrules import POOL_RULES
from cloudinit.rules import load_cluster
from kubekiln.errors import ConfigError
from tests.support.clusters import (
    MASTER,
    WEB,
    cluster_data,
    make_cluster,
    make_project,
    pools,
    write_cluster,
)

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "a single node": (
        pools({}, nodes=[{**MASTER, "role": "single"}]),
        "no master to join", "pools",
    ),
    "a node's name": (
        pools({"prefix": "x-"}, nodes=[{**MASTER, "name": "batch"}]),
        "name batch is already that of node batch", "pools[0].name",
    ),
    "two of one name": (
        pools({}, WEB | {"name": "batch", "prefix": "x-"}),
        "already that of pool 1", "pools[1].name",
    ),
    "a node's name begins so": (
        pools({"prefix": "m"}), "prefix m of pool batch fits the node m-1", "pools[0].prefix",
    ),
    "one prefix begins another": (
        pools({}, WEB | {"prefix": "batch-gpu-"}), "fit the same names", "pools[1].prefix",
    ),
    "a capital": (pools({"prefix": "Batch-"}), "is not how a host name begins", "pools[0].prefix"),
    "elsewhere": (
        pools({"addresses": "10.81.0.0/25"}), "not in node_cidr", "pools[0].addresses",
    ),
    "a node's address": (
        pools({"addresses": "10.80.0.0/28"}), "10.80.0.11 of m-1", "pools[0].addresses",
    ),
    "the gateway": (
        pools({"addresses": "10.80.0.0/29", "max_nodes": 5}),
        "of the gateway", "pools[0].addresses",
    ),
    "the API": (
        pools({}, api={"vip": "10.80.0.200"}), "of the API (api.vip)", "pools[0].addresses",
    ),
    "two of one range": (
        pools({}, WEB | {"addresses": "10.80.0.192/26"}), "overlap", "pools[1].addresses",
    ),
    "too many for the range": (
        pools({"max_nodes": 128}), "has 127 addresses for max_nodes 128", "pools[0].max_nodes",
    ),
    "too many for the pods": (
        pools({}, network={"pod_cidr": "10.244.0.0/19"}),
        "has parts for 32 nodes of 51", "network.pod_cidr",
    ),
    "a token for ever": (pools({"token_ttl_hours": 9999}), "8760", "pools[0].token_ttl_hours"),
    "a pool of two families": (
        pools(
            {},
            nodes=[{**MASTER, "address": ["10.80.0.11", "fd00:80::11"]}],
            network={
                "node_cidr": ["10.80.0.0/24", "fd00:80::/64"],
                "pod_cidr": ["10.244.0.0/16", "fd00:244::/56"],
                "service_cidr": ["10.96.0.0/16", "fd00:96::/112"],
            },
        ),
        "the nodes have IPv4 and IPv6", "pools",
    ),
    "a label of others": (
        pools({"labels": {"node-role.kubernetes.io/batch": ""}}),
        "may not give itself the label", "pools[0].labels",
    ),
    "a label that is none": (
        pools({"labels": {"a": "b c"}}), "'b c' is not the value of a label", "pools[0].labels",
    ),
    "a taint that is none": (
        pools({"taints": [{"key": "a=b", "effect": "NoExecute"}]}),
        "'a=b' is not the key of a taint", "pools[0].taints[0]",
    ),
    "a taint's value": (
        pools({"taints": [{"key": "a", "value": "-", "effect": "NoExecute"}]}),
        "'-' is not the value of a taint", "pools[0].taints[0]",
    ),
    "no effect": (pools({"taints": [{"key": "a", "effect": "Nothing"}]}), "NoSchedule", "effect"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said", "where"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, changes: dict[str, Any], said: str, where: str
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data(**changes))

    with pytest.raises(ConfigError) as error:
        load_cluster("lab", project)

    assert said in str(error.value)
    found = error.value.problems[0].where or ""
    assert found.startswith(f"{path}:") and where in found


def test_every_rule_has_something_against_a_bad_cluster() -> None:
    fired = set()
    for changes, _, _ in WRONG.values():
        try:
            cluster = make_cluster(**changes)
        except ValueError:
            continue
        fired |= {rule for rule in POOL_RULES if list(rule(cluster))}

    assert fired == set(POOL_RULES)


def test_two_pools_beside_declared_workers_are_fine(tmp_path: Path) -> None:
    worker = {"name": "w-1", "role": "worker", "address": "10.80.0.21"}
    project = make_project(tmp_path)
    write_cluster(project, cluster_data(**pools({}, WEB, nodes=[MASTER, worker])))

    assert load_cluster("lab", project).sized_for == 72
