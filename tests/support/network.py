# SPDX-License-Identifier: Apache-2.0
"""Can pods of every node reach what pods can reach?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cloudinit.families import in_url
from cloudinit.flannelbackends import BACKENDS
from cloudinit.modeltypes import BackendName
from cloudinit.networkmodel import Flannel
from cloudinit.parts.flannel import net_conf
from tests.support.fleet import Fleet
from tests.support.waiting import until

TESTS = Path(__file__).resolve().parents[1]
MANIFEST = TESTS / "e2e/manifests/net.yaml"
# Of the cards of container machines, where the cluster says nothing.
USUAL_MTU = 1500
WORKLOADS = ("daemonset/net", "statefulset/set")
Question = list[Any]
"""A kind of question (see in_pod/ask.py) and its words."""
# 1,400 bytes fit into one packet of every backend; 8,000 are fragmented.
SIZES = (1400, 8000)


def unanswered(fleet: Fleet, *, more: Sequence[Question] = ()) -> dict[str, list[Any]]:
    """Let a pod on each node ask pods, Services, names, NodePorts and hostPorts of all, by every
    family that the cluster has; and `more`.

    Gives the questions that got no answer, by the node whose pod asked.
    """
    fleet.kubectl("apply", "--filename", str(MANIFEST))
    for workload in WORKLOADS:
        fleet.kubectl("rollout", "status", workload, "-n=e2e", f"--timeout={fleet.patience_s}s")
    pods = fleet.pods("app=net")
    assert {node for _, _, node in pods} == set(fleet.nodes)
    families = fleet.plan.cluster.network.families
    assert all(len(addresses) == len(families) for _, addresses, _ in pods)
    usual = questions(fleet, [a for _, addresses, _ in pods for a in addresses])
    return ask(fleet, [*usual, *more])


def ask(fleet: Fleet, asked: Sequence[Question]) -> dict[str, list[Any]]:
    """Let a pod on each node ask something; gives what got no answer, by node."""
    program = (TESTS / "support/in_pod/ask.py").read_text()
    found = {}
    for name, _, node in fleet.pods("app=net"):
        said = fleet.kubectl(
            "exec", "-n=e2e", name, "--", "/usr/bin/python3", "-c", program, json.dumps(asked)
        ).stdout  # fmt: skip
        if failed := json.loads(said):
            found[node] = failed
    return found


def pods_mtu(fleet: Fleet, backend: BackendName) -> int:
    """Tell how large a pod's packets may be: what the backend leaves of the nodes' frames."""
    return (fleet.plan.cluster.network.mtu or USUAL_MTU) - BACKENDS[backend].overhead


def change_backend(fleet: Fleet, backend: BackendName) -> None:
    """Let flannel carry packets another way, as if the nodes had been rendered so.

    Cheaper than a boot; pods get the new MTU.
    """
    cluster = fleet.plan.cluster
    network = cluster.network.model_copy(update={"flannel": Flannel(backend=backend)})
    settings = json.dumps(net_conf(network)).encode()
    for node in fleet.nodes:
        _restart_flannel(fleet, node, settings)
        # A bridge that is there keeps its MTU, also when a plugin brings pods of another.
        size = str(pods_mtu(fleet, backend))
        fleet.inside(node, "ip", "link", "set", "cni0", "mtu", size)
    fleet.kubectl("rollout", "restart", *WORKLOADS, "-n=e2e")


def _restart_flannel(fleet: Fleet, node: str, settings: bytes) -> None:
    def cni() -> bytes:
        return fleet.inside(node, "cat", "/etc/cni/net.d/10-flannel.conflist").stdout

    before = cni()
    fleet.inside(node, "tee", "/etc/flannel/net-conf.json", stdin=settings)
    fleet.inside(node, "systemctl", "restart", "flanneld.service")
    until(lambda: cni() != before, what=f"another pod network of {node}", timeout_s=60)


def questions(fleet: Fleet, pods: list[str]) -> list[Question]:
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
