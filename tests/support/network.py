# SPDX-License-Identifier: Apache-2.0
"""Can pods of every node reach what pods can reach?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.fleet import Fleet

TESTS = Path(__file__).resolve().parents[1]
MANIFEST = TESTS / "e2e/manifests/net.yaml"
# 1,400 bytes fit into one packet of every backend; 8,000 are fragmented.
SIZES = (1400, 8000)


def unanswered(fleet: Fleet) -> dict[str, list[Any]]:
    """Let a pod on each node ask pods, Services, names, NodePorts and hostPorts of all.

    Gives the questions that got no answer, by the node whose pod asked.
    """
    fleet.kubectl("apply", "--filename", str(MANIFEST))
    for workload in ("daemonset/net", "statefulset/set"):
        fleet.kubectl("rollout", "status", workload, "-n=e2e", "--timeout=180s")
    pods = fleet.pods("app=net")
    assert {node for _, _, node in pods} == set(fleet.nodes)
    asked = json.dumps(questions(fleet, [address for _, address, _ in pods]))
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
    """List what a pod asks: `http URL` and `echo ADDRESS BYTES` (UDP)."""
    nodes = [str(fleet.machines[name].address.ip) for name in fleet.nodes]
    names = ["net", "net.e2e.svc.cluster.local"]
    names += [f"set-{i}.set.e2e.svc.cluster.local:8080" for i in (0, 1)]
    names += [f"{address}:8080" for address in pods]
    names += [f"{address}:{port}" for address in nodes for port in (30080, 18080)]
    echoes = [["echo", address, size] for address in pods for size in SIZES]
    return [*(["http", f"http://{name}/"] for name in names), *echoes]
