# SPDX-License-Identifier: Apache-2.0
"""Does a cluster work with IPv4 and IPv6 at once, and with IPv6 alone?

A master and a worker each, as container machines; the second cluster is the IPv6 half of the first,
the third the same by kubeadm. (Both families by kubeadm: test_kubeadm.py.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import BOOT_S, Lab, free_port
from tests.support.clusters import only_ipv6
from tests.support.fleet import Fleet, fleet
from tests.support.network import unanswered
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

NAME = "dual-stack"
CA = "/etc/kubernetes/pki/ca.crt"
# Of kubeadm alone.
STATIC_POD = "/etc/kubernetes/manifests/kube-apiserver.yaml"
IPV6 = {"ds-master-1": ["fd00:84::11"], "ds-worker-1": ["fd00:84::21"]}
NODES = {
    "dual": {
        "ds-master-1": ["10.84.0.11", "fd00:84::11"],
        "ds-worker-1": ["10.84.0.21", "fd00:84::21"],
    },
    "ipv6": IPV6,
    "ipv6-kubeadm": IPV6,
}
VIPS = {
    "dual": ["10.84.0.10", "[fd00:84::10]"],
    "ipv6": ["[fd00:84::10]"],
    "ipv6-kubeadm": ["[fd00:84::10]"],
}


@pytest.fixture(scope="module", params=list(NODES))
def made(request: pytest.FixtureRequest, lab: Lab, image: object) -> Iterator[tuple[str, Fleet]]:
    """The example, then the same with IPv6 alone, by either way; booted with the worker first."""
    assert image
    which = str(request.param)
    lab.set_host_port(NAME, free_port())
    if which != "dual":
        lab.edit_cluster(NAME, only_ipv6)
    if which == "ipv6-kubeadm":
        lab.edit_cluster(NAME, lambda config: config.update(bootstrap="kubeadm"))
    with fleet(lab.project, NAME) as machines:
        machines.boot(reversed(machines.machines))
        yield which, machines


def test_both_nodes_get_ready_with_the_addresses_of_their_families(made: tuple[str, Fleet]) -> None:
    which, machines = made

    machines.wait_ready()

    items = json.loads(machines.kubectl("get", "nodes", "--output=json").stdout)["items"]
    found = {
        item["metadata"]["name"]: [
            each["address"] for each in item["status"]["addresses"] if each["type"] == "InternalIP"
        ]
        for item in items
    }
    assert found == NODES[which]
    assert {len(item["spec"]["podCIDRs"]) for item in items} == {len(VIPS[which])}
    is_static = machines.inside("ds-master-1", "test", "-e", STATIC_POD, check=False)
    assert (is_static.returncode == 0) == (which == "ipv6-kubeadm")
    until(
        lambda: all(machines.is_complete(name) for name in machines.machines),
        what="both machines complete",
        timeout_s=120,
    )


def test_pods_of_both_nodes_reach_pods_services_ports_and_names_by_every_family(
    made: tuple[str, Fleet],
) -> None:
    _, machines = made
    machines.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=120s")

    assert unanswered(machines) == {}


def test_the_virtual_addresses_lead_to_the_master(made: tuple[str, Fleet]) -> None:
    which, machines = made

    for vip in VIPS[which]:
        wait = ("/usr/lib/kubekiln/wait-for-api", f"https://{vip}:6443/readyz", "10", CA)
        assert machines.inside("ds-worker-1", *wait).returncode == 0


def test_logs_of_a_pod_on_the_other_node_are_served(made: tuple[str, Fleet]) -> None:
    # The API server asks the kubelet by its first address, and checks its certificate.
    _, machines = made
    pod = next(name for name, _, node in machines.pods("app=net") if node == "ds-worker-1")

    assert machines.kubectl("logs", "-n=e2e", pod).returncode == 0
