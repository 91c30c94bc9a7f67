# SPDX-License-Identifier: Apache-2.0
"""How does a node reach a master that is ready? (Part: haproxy on the node's own loopback.)

Not a Service of Kubernetes: those need a kubelet and a kube-proxy that have found a master already.
"""

from __future__ import annotations

from cloudinit import sizing
from cloudinit.families import in_url
from cloudinit.model import Cluster, Node
from cloudinit.nodepool import NodePool
from cloudinit.part import Context, NodeFile, Part, from_template, unit
from cloudinit.parts import etcd

UNIT = "haproxy.service"
WAIT_UNIT = "kubekiln-balancer.service"
HEALTH_PORT = 7444
# Each node asks each master: as many questions a second reach a master as it has nodes. 200 of
# them, a TLS handshake of P-256 each, are some percent of one CPU.
_QUESTIONS_PER_S = 200
_LONGEST_INTERVAL_S = 10
# How haproxy is told to listen on all addresses, by the cluster's families.
_EVERYWHERE = {
    frozenset({4}): ":{port}",
    frozenset({6}): "[::]:{port}",
    frozenset({4, 6}): "[::]:{port} v4v6",
}


def check_interval_s(cluster: Cluster) -> int:
    """Give the seconds between two questions of one node to one master."""
    return min(max(1, -(-cluster.sized_for // _QUESTIONS_PER_S)), _LONGEST_INTERVAL_S)


def down_interval_s(cluster: Cluster) -> int:
    """Give the seconds between two questions to a master that isn't ready.

    One that starts has better things to do than to tell every node so: each question is a TLS
    handshake and two dozen checks. (Seen: two emulated machines that asked twice a second took so
    much of the master's CPU that it never got ready.)
    """
    return 2 * check_interval_s(cluster)


def ready_path(cluster: Cluster) -> str:
    """Say where an API server tells whether it is ready, as if nothing were wrong with events.

    Their database is no reason to take masters away. (It is told apart since Kubernetes 1.34.)
    """
    if not sizing.has_events_apart(cluster):
        return "/readyz"
    return "/readyz?exclude=etcd-override-0&exclude=etcd-override-readiness-0"


def render(context: Context) -> Part:
    """Give a balancer on loopback, to which a master's own API server comes first."""
    address = f"127.0.0.1:{context.cluster.api.local_port}"
    view = {"address": address, "ready_path": ready_path(context.cluster)}
    keys = ("api.local_port", "etcd.events")
    environment = from_template("/etc/haproxy/balancer.env", view, keys=keys, mode=0o644)
    return Part(
        files=(_settings(context, address), environment, unit(UNIT), unit(WAIT_UNIT)),
        units=(UNIT, WAIT_UNIT),
    )


def render_public(context: Context) -> Part:
    """Give a balancer for other machines, on all addresses of one of role `lb`."""
    everywhere = _EVERYWHERE[frozenset(context.cluster.network.families)]
    settings = _settings(context, everywhere.format(port=context.cluster.api.port))
    return Part(files=(settings, unit(UNIT)), units=(UNIT,))


def _settings(context: Context, bind: str) -> NodeFile:
    cluster, own = context.cluster, context.owner
    # Everybody's first choice is another one, or the first master would serve all.
    masters = sorted(cluster.masters, key=lambda master: master != own)
    view = {
        "bind": bind,
        # An API server that waits for its database answers late, and is not out of service.
        "check_s": etcd.answer_s(cluster),
        "first_only": own in cluster.masters,
        "health_port": HEALTH_PORT,
        "down_interval_s": down_interval_s(cluster),
        "interval_s": check_interval_s(cluster),
        "ready_path": ready_path(cluster),
        "servers": [(m.name, _address(m, own), cluster.api.port) for m in masters],
    }
    keys = (
        "api.port", "api.local_port", "api.vip", "etcd.election_ms", "etcd.events", "nodes.name",
        "nodes.address", "nodes.role",
    )  # fmt: skip
    return from_template("/etc/haproxy/haproxy.cfg", view, keys=keys, mode=0o644)


def _address(master: Node, own: Node | NodePool) -> str:
    return "127.0.0.1" if master == own else in_url(master.address)
