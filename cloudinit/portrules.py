# SPDX-License-Identifier: Apache-2.0
"""On which TCP ports may the API and its balancers not listen?"""

from __future__ import annotations

from collections.abc import Iterator

from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster

# Port → who listens there on some machine of a cluster, on loopback at least. Also what only some
# clusters have: it may be switched on later.
TAKEN = {
    22: "sshd",
    53: "the node's DNS cache",
    2379: "etcd",
    2380: "etcd",
    2381: "etcd's metrics",
    2479: "etcd of events",
    2480: "etcd of events",
    2481: "the metrics of etcd of events",
    7444: "the balancer's health",
    9253: "the metrics of the node's DNS cache",
    10248: "the kubelet's health",
    10249: "kube-proxy's metrics",
    10250: "the kubelet",
    10256: "kube-proxy's health",
    10257: "the controller manager",
    10259: "the scheduler",
}


def ports_of_a_master_are_distinct(cluster: Cluster) -> Iterator[Finding]:
    """The API server listens on every address of a master, its balancer on one of them."""
    if cluster.api.local_port == cluster.api.port:
        yield Finding(
            ("api", "local_port"),
            f"local_port {cluster.api.local_port} is the API's own port",
            "the balancer of a master could not listen there",
        )


def ports_are_nobody_elses(cluster: Cluster) -> Iterator[Finding]:
    """Whoever came second would try to listen for ever."""
    for key, port in (("port", cluster.api.port), ("local_port", cluster.api.local_port)):
        if port in TAKEN:
            yield Finding(
                ("api", key),
                f"{key} {port} is the port of {TAKEN[port]}",
                "443, 6443 and 7443 are free",
            )


PORT_RULES: tuple[Rule, ...] = (ports_of_a_master_are_distinct, ports_are_nobody_elses)
