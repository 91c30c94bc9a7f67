# SPDX-License-Identifier: Apache-2.0
"""What do other machines' user-data say otherwise once a machine is added? (docs/growth.md.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit.model import Cluster, Node
from cloudinit.render import render_payloads
from cloudinit.state import State
from tests.support.clusters import NOW, make_project

APPROVER = "/etc/kubekiln/csr-approver.json"
BALANCER = "/etc/haproxy/haproxy.cfg"
DOORS = "/etc/keepalived/keepalived.conf"
MEMBERS = "/etc/etcd/etcd.env"
SERVING = {f"/etc/kubernetes/pki/apiserver.{kind}" for kind in ("crt", "key")}
# The hashes of all others.
MANIFEST = "/etc/kubekiln/node.json"

# Example, role of the one that is added, name of the one that goes; role of who stays → files.
CASES: dict[str, tuple[str, str, str, dict[str, set[str]]]] = {
    "a worker, one master": ("single-master", "worker", "", {"master": {APPROVER}}),
    "a worker": ("ha-stacked", "worker", "", {"master": {APPROVER}}),
    "a worker, etcd apart": ("ha-external", "worker", "", {"master": {APPROVER}}),
    "a master, etcd apart": (
        "ha-external",
        "master",
        "",
        {"master": {APPROVER, BALANCER}, "worker": {BALANCER}, "lb": {BALANCER}},
    ),
    "a balancer": ("ha-external", "lb", "", {"lb": {DOORS}, "master": SERVING}),
    "another name for a master": (
        "ha-stacked",
        "master",
        "hs-master-3",
        {"master": {APPROVER, BALANCER, DOORS, MEMBERS}, "worker": {BALANCER}},
    ),
    "another name for a member": (
        "ha-external",
        "etcd",
        "he-etcd-3",
        {"etcd": {MEMBERS}, "master": {"/etc/kubernetes/kube-apiserver.env"}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_the_documentation_names_differs(tmp_path: Path, case: str) -> None:
    example, role, gone, expected = CASES[case]
    project = make_project(tmp_path)
    before = yaml.safe_load((project.configs_dir / "clusters" / f"{example}.yaml").read_text())
    address = before["network"]["node_cidr"].replace("0/24", "99")
    nodes = [node for node in before["nodes"] if node["name"] != gone]
    after = {**before, "nodes": [*nodes, {"name": "later", "role": role, "address": address}]}
    state = State.open(tmp_path / "state", cluster=example, config=Cluster(**before).pki, now=NOW)

    old, new = (files(data, state, tmp_path) for data in (before, after))

    differing: dict[str, set[str]] = {}
    for name in old.keys() & new.keys():
        (was, is_now), node_role = (old[name][1], new[name][1]), old[name][0]
        found = {path for path in was.keys() | is_now.keys() if was.get(path) != is_now.get(path)}
        if found:
            differing.setdefault(node_role, set()).update(found - {MANIFEST})
    assert differing == expected


def files(data: dict[str, Any], state: State, root: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Give each machine's role, and its files' hashes by path."""
    cluster = Cluster.model_validate(data)
    payloads = render_payloads(cluster, state=state, project=make_project(root))
    return {
        owner.name: (owner.role, {file.path: file.sha256 for file in payload.files})
        for owner, payload in zip(cluster.payloads, payloads, strict=True)
        if isinstance(owner, Node)
    }
