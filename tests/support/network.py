# SPDX-License-Identifier: Apache-2.0
"""Can pods of every node reach what pods can reach?"""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cloudinit.families import in_url
from tests.support.fleet import Fleet

TESTS = Path(__file__).resolve().parents[1]
MANIFEST = TESTS / "e2e/manifests/net.yaml"
# 1,400 bytes fit into one packet of every backend; 8,000 are fragmented.
SIZES = (1400, 8000)


def unanswered(fleet: Fleet) -> dict[str, list[Any]]:
    """Let a pod on each node ask pods, Services, names, NodePorts and hostPorts of all, by every
    family that the cluster has.

    Gives the questions that got no answer, by the node whose pod asked.
    """
    fleet.kubectl("apply", "--filename", str(MANIFEST))
    for workload in ("daemonset/net", "statefulset/set"):
        fleet.kubectl("rollout", "status", workload, "-n=e2e", "--timeout=180s")
    pods = fleet.pods("app=net")
    assert {node for _, _, node in pods} == set(fleet.nodes)
    families = fleet.plan.cluster.network.families
    assert all(len(addresses) == len(families) for _, addresses, _ in pods)
    asked = json.dumps(questions(fleet, [a for _, addresses, _ in pods for a in addresses]))
    program = (TESTS / "support/in_pod/ask.py").read_text()
    found = {}
    for name, _, node in pods:
        said = fleet.kubectl(
            "exec", "-n=e2e", name, "--", "/usr/bin/python3", "-c", program, asked
        ).stdout  # fmt: skip
        if failed := json.loads(said):
            found[node] = failed
    return found


def questions(fleet: Fleet, pods: list[str]) -> list[list[Any]]:
    """List what a pod asks: `http URL`, `echo ADDRESS BYTES` (UDP), `resolve NAME FAMILY` and
    `reverse ADDRESS NAME`."""
    full = "net.e2e.svc.cluster.local"
    said = fleet.kubectl("get", "service", "net", "-n=e2e", "--output=json").stdout
    services = json.loads(said)["spec"]["clusterIPs"]
    families = fleet.plan.cluster.network.families
    assert tuple(ip_address(service).version for service in services) == families
    nodes = [str(a.ip) for name in fleet.nodes for a in fleet.machines[name].addresses]
    names = ["net", full, *map(in_url, services)]
    names += [f"set-{i}.set.e2e.svc.cluster.local:8080" for i in (0, 1)]
    names += [f"{in_url(address)}:8080" for address in pods]
    names += [f"{in_url(address)}:{port}" for address in nodes for port in (30080, 18080)]
    return [
        *(["http", f"http://{name}/"] for name in names),
        *(["echo", address, size] for address in pods for size in SIZES),
        *(["resolve", full, family] for family in families),
        *(["reverse", service, full] for service in services),
    ]
