# SPDX-License-Identifier: Apache-2.0
"""Does each example of several machines become Ready? (ha-stacked has tests of its own.)

Single-master does so with the settings of a cluster of 5,000 nodes, with flannel's udp backend, in
an air gap; its tests share one boot and run in the order in which they stand here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cloudinit.modeltypes import BackendName
from cloudinit.networkmodel import NODE_LOCAL_DNS
from cloudinit.sizing import dns_replicas
from tests.e2e.conftest import BOOT_S, SEED, Lab, free_port
from tests.support.fleet import Fleet, fleet
from tests.support.nameserver import ADDRESS, NAME, nameserver
from tests.support.network import Question, ask, change_backend, pods_mtu, unanswered
from tests.support.waiting import until
from tests.support.writer import BACK_S, write_beside_a_loss

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

MASTER = "sm-master-1"
MAIN, EVENTS = 2379, 2479
OTHER_BACKENDS: tuple[BackendName, ...] = ("host-gw", "udp")
KILLED = (
    ("he-etcd-2", "etcd.service"),
    ("he-lb-2", "haproxy.service"),
    ("he-lb-2", "keepalived.service"),
    ("he-worker-1", "node-local-dns.service"),
    ("he-worker-1", "haproxy.service"),
)
# By a shuffle of these all 3! orders come, one a commit.
GROUPS = {"control plane": ("etcd", "master"), "workers": ("worker",), "balancers": ("lb",)}


def be_large(config: dict[str, Any]) -> None:
    """Plan for as many nodes as there can be, in a network that has room for them."""
    config["planned_nodes"] = 5000
    config["network"] |= {"pod_cidr": "10.128.0.0/11", "nameservers": []}
    config["network"]["flannel"] = {"backend": "udp"}


def mtu(machines: Fleet, backend: BackendName) -> Question:
    return ["holds", "/sys/class/net/eth0/mtu", str(pods_mtu(machines, backend))]


@pytest.fixture(scope="module")
def large(lab: Lab, image: Path) -> Iterator[Fleet]:
    """One master, sized for 5,000 nodes, and two workers; nothing has booted yet."""
    assert image.exists()
    lab.set_host_port("single-master", free_port())
    lab.edit_cluster("single-master", be_large)
    with fleet(lab.project, "single-master") as made:
        yield made


def test_a_master_sized_for_5000_nodes_and_its_workers_come_up(large: Fleet) -> None:
    large.boot(reversed(large.machines))

    check_that_all_is_up(large, more=[mtu(large, "udp"), ["absent", NAME]])


def test_events_are_in_a_database_of_their_own_and_nothing_else_is(large: Fleet) -> None:
    kinds = {port: kinds_in(large, port) for port in (MAIN, EVENTS)}

    assert kinds[EVENTS] == {"events"}
    assert {"pods", "leases"} <= kinds[MAIN]
    assert "events" not in kinds[MAIN]
    assert large.kubectl("get", "events", "-n=e2e", "--output=name").text


def kinds_in(machines: Fleet, port: int) -> set[str]:
    said = machines.etcdctl(MASTER, "get", "/registry/", "--prefix", "--keys-only", port=port)
    return {key.split("/")[2] for key in said.split()}


def test_a_database_of_events_that_is_killed_comes_back_with_them(large: Fleet) -> None:
    before = large.kubectl("get", "events", "-n=e2e", "--output=name").text

    large.inside(MASTER, "/usr/bin/systemctl", "kill", "--signal=SIGKILL", "etcd-events.service")

    until(lambda: events(large), what="events again", timeout_s=60)
    assert set(before.split()) <= events(large)


def test_without_it_only_events_are_lost(large: Fleet) -> None:
    large.inside(MASTER, "/usr/bin/systemctl", "stop", "etcd-events.service")

    large.kubectl("scale", "statefulset/set", "-n=e2e", "--replicas=3")
    large.kubectl("rollout", "status", "statefulset/set", "-n=e2e", "--timeout=120s")
    assert events(large) == set()
    assert large.ready_nodes() == set(large.nodes)

    large.inside(MASTER, "/usr/bin/systemctl", "start", "etcd-events.service")
    until(lambda: events(large), what="events again", timeout_s=60)


def events(machines: Fleet) -> set[str]:
    """List the events; none where nobody can tell."""
    words = ("get", "events", "-n=e2e", "--output=name", "--request-timeout=5s")
    said = machines.kubectl(*words, check=False)
    return set(said.text.split()) if said.returncode == 0 else set()


def test_databases_masters_balancers_and_workers_come_up_in_any_order(
    lab: Lab, image: Path
) -> None:
    assert image.exists()
    lab.set_host_port("ha-external", free_port())
    order = list(GROUPS)
    random.Random(SEED).shuffle(order)
    print(f"order of booting, by seed {SEED}: {', '.join(order)}")
    with fleet(lab.project, "ha-external") as machines:
        for group in order:
            names = machines.names(*GROUPS[group])
            machines.boot(names)
            # Not only switched on earlier: at work, without what comes later.
            for name in names:
                until(
                    lambda name=name: machines.has_activated(name),
                    what=f"{name} takes its role", timeout_s=120,
                )  # fmt: skip

        with nameserver(machines):
            check_that_all_is_up(machines, more=[mtu(machines, "vxlan"), *names_outside(machines)])
            for backend in OTHER_BACKENDS:
                change_backend(machines, backend)
                more = [mtu(machines, backend), *names_outside(machines)]
                assert unanswered(machines, more=more) == {}, backend
            check_that_what_is_killed_comes_back(machines)
            check_that_names_outlive_coredns(machines)
        # The last: this host's own way to the API leads through the first balancer.
        check_that_a_balancer_may_go(machines)


def check_that_what_is_killed_comes_back(machines: Fleet) -> None:
    """The programs of the roles that ha-stacked hasn't, and the nodes' DNS cache."""
    for name, unit in KILLED:
        machines.kill(name, unit)
    machines.wait_ready()
    assert unanswered(machines, more=names_outside(machines)) == {}


def names_outside(machines: Fleet) -> list[Question]:
    """Ask for a name of others as pods do, the cache of their node, and CoreDNS itself."""
    servers = (NODE_LOCAL_DNS, machines.plan.cluster.network.cluster_dns[0])
    return [["name", NAME, ADDRESS], *(["dns", str(s), NAME, ADDRESS] for s in servers)]


def check_that_a_balancer_may_go(machines: Fleet) -> None:
    """Whoever writes by the virtual address goes on when the balancer that has it is lost."""
    address = str(machines.plan.cluster.api.vips[0])
    (holder,) = (name for name in machines.names("lb") if address in machines.addresses(name))

    said = write_beside_a_loss(
        machines, "he-worker-1", f"{address}:6443", name="load",
        loss=lambda _: machines.cut_off(holder),
    )  # fmt: skip

    print(f"writes through {address} beside the loss of {holder}: {said}")
    assert len(said.peers) > 1, "the client was connected through it"
    assert said.acknowledged > 50
    assert said.longest_s < BACK_S


def check_that_names_outlive_coredns(machines: Fleet) -> None:
    """What pods of a node have asked before is answered by its cache alone."""
    gone = ("wait", "pod", "--selector=k8s-app=kube-dns", "--for=delete", "--timeout=60s")
    machines.kubectl("scale", "deploy/coredns", "-n=kube-system", "--replicas=0")
    machines.kubectl(*gone, "-n=kube-system")

    assert ask(machines, [["http", "http://net/"], ["name", NAME, ADDRESS]]) == {}


def check_that_boots_are_over(machines: Fleet) -> None:
    """Nothing failed, nothing is left to do, and no kubelet waited for cloud-init's last stage."""
    state = ("/usr/bin/systemctl", "is-system-running")
    for name in machines.machines:
        until(
            lambda name=name: machines.inside(name, *state, check=False).text == "running",
            what=f"systemd of {name} is done", timeout_s=60,
        )  # fmt: skip
        assert machines.inside(name, "/usr/bin/systemctl", "list-jobs", "--no-legend").text == ""
    for name in machines.nodes:
        chain = ("/usr/bin/systemd-analyze", "critical-chain", "kubelet.service")
        said = machines.inside(name, *chain).text
        assert "kubelet.service" in said
        assert "cloud-final" not in said


def name_servers(machines: Fleet) -> int:
    """Count the ready ones."""
    which = ("get", "deploy/coredns", "-n=kube-system", "--output=jsonpath={.status.readyReplicas}")
    return int(machines.kubectl(*which, check=False).text or 0)


def check_that_all_is_up(machines: Fleet, *, more: Sequence[Question] = ()) -> None:
    """Every node Ready, every machine's boot complete, DNS there, pods reach each other."""
    machines.wait_ready()

    assert machines.ready_nodes() == set(machines.nodes)
    until(
        lambda: all(machines.is_complete(machine) for machine in machines.machines),
        what="every machine complete",
        timeout_s=120,
    )
    check_that_boots_are_over(machines)
    wanted = dns_replicas(machines.plan.cluster)
    assert wanted >= 2
    until(lambda: name_servers(machines) == wanted, what="all name servers ready", timeout_s=120)
    assert unanswered(machines, more=more) == {}
