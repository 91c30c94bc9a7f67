# SPDX-License-Identifier: Apache-2.0
"""Do several machines become one cluster in any order, carry pods' traffic, and survive losses?

One cluster of three masters and two workers, as container machines; its tests run in the order in
which they stand here.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from kubekiln.errors import CommandFailed
from tests.e2e.conftest import BOOT_S, SEED, Lab, free_port
from tests.support.etcd import etcd_keys, etcd_status, slowest_syncs_s
from tests.support.fleet import Fleet, fleet
from tests.support.network import unanswered
from tests.support.slowdisk import slow_syncs
from tests.support.waiting import until
from tests.support.writer import BACK_S, watch_until_they_end, write_beside_a_loss

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.alone,
    pytest.mark.in_order, pytest.mark.timeout(BOOT_S),
]  # fmt: skip

LATE = "hs-master-3"
VIP = "10.82.0.10"
BALANCER = "127.0.0.1:7443"
CLIENT = "/var/lib/kubelet/pki/kubelet-client-current.pem"
SERVING = "/var/lib/kubelet/pki/kubelet-server-current.pem"
SNAPSHOT = "/var/lib/snapshot.db"
# A leader whose disk is slow may lose its office once, not again and again.
MOST_ELECTIONS = 1
COMPONENTS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
    "flanneld", "haproxy", "keepalived", "containerd", "kubekiln-csr-approver",
)  # fmt: skip


@pytest.fixture(scope="module")
def ha(lab: Lab, image: Path) -> Iterator[Fleet]:
    """Three masters and two workers, of which nothing has booted yet.

    Rendered 340 days ago: certificates of 365 days are then in the last tenth of their life.
    """
    assert image.exists()
    lab.set_host_port("ha-stacked", free_port())
    with fleet(lab.project, "ha-stacked", now=datetime.now(UTC) - timedelta(days=340)) as made:
        yield made


def test_it_forms_in_any_order_while_one_master_is_late(ha: Fleet) -> None:
    order = [name for name in ha.machines if name != LATE]
    random.Random(SEED).shuffle(order)
    print(f"order of booting, by seed {SEED}: {', '.join(order)}")

    ha.boot(order)

    ha.wait_ready(order)
    assert LATE not in ha.ready_nodes()


def test_a_late_master_joins_by_itself(ha: Fleet) -> None:
    ha.boot([LATE])

    ha.wait_ready()
    until(lambda: ha.is_complete(LATE), what=f"{LATE} complete", timeout_s=60)


def test_the_name_service_is_on_two_nodes(ha: Fleet) -> None:
    ha.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=120s")

    said = ha.kubectl("get", "pods", "-n=kube-system", "--selector=k8s-app=kube-dns", "-o=json")

    assert len({pod["spec"]["nodeName"] for pod in json.loads(said.stdout)["items"]}) == 2


def test_kubelets_have_renewed_their_client_certificates_before_those_end(ha: Fleet) -> None:
    for name in ha.nodes:
        (given,) = ha.certificates(name, "/etc/kubernetes/pki/kubelet.crt")
        until(
            lambda name=name, given=given: ha.has_another(name, CLIENT, given),
            what=f"another certificate of {name}'s kubelet", timeout_s=120,
        )  # fmt: skip
        current = ha.certificates(name, CLIENT)[0]

        assert days_left(given) < 30 < 300 < days_left(current)
        assert current.subject == given.subject
        assert current.issuer == given.issuer


def test_a_kubelet_that_lost_its_serving_certificate_gets_another_one(ha: Fleet) -> None:
    name, other = "hs-worker-1", "hs-worker-2"
    address = ha.machines[name].address.ip
    until(lambda: ha.certificates(name, SERVING), what="a first serving certificate", timeout_s=60)
    before = ha.certificates(name, SERVING)[0]

    ha.inside(name, "/usr/bin/sh", "-c", f"rm {SERVING.replace('current', '*')}")
    ha.inside(name, "/usr/bin/systemctl", "restart", "kubelet.service")

    until(
        lambda: ha.has_another(name, SERVING, before),
        what=f"another serving certificate of {name}", timeout_s=120,
    )  # fmt: skip
    ask = f"import ssl; print(ssl.get_server_certificate(('{address}', 10250)))"
    served = ha.inside(other, "/usr/bin/python3", "-c", ask).stdout
    current = ha.certificates(name, SERVING)[0]
    assert x509.load_pem_x509_certificate(served).serial_number == current.serial_number
    assert ha.kubectl("get", "--raw", f"/api/v1/nodes/{name}/proxy/healthz").text == "ok"


def test_it_then_shows_its_renewed_client_certificate(ha: Fleet) -> None:
    name = "hs-worker-1"
    shown = ha.certificates(name, CLIENT)[0].fingerprint(hashes.SHA256()).hex()

    def is_in_a_log() -> bool:
        search = ("/usr/bin/grep", "-qr", f"X509SHA256={shown}", "/var/log/kubernetes/audit")
        return any(ha.inside(n, *search, check=False).returncode == 0 for n in ha.names("master"))

    until(is_in_a_log, what=f"an audit event of {name} with its new certificate", timeout_s=60)


def days_left(certificate: x509.Certificate) -> int:
    return (certificate.not_valid_after_utc - datetime.now(UTC)).days


def test_pods_of_all_nodes_reach_pods_services_ports_and_names(ha: Fleet) -> None:
    assert unanswered(ha) == {}


def test_the_virtual_address_leads_to_a_master(ha: Fleet) -> None:
    assert ha.reaches_api("hs-worker-1", f"{VIP}:6443")
    assert sum(VIP in ha.addresses(name) for name in ha.names("master")) == 1


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_that_is_killed_comes_back(ha: Fleet, component: str) -> None:
    name = "hs-master-2"

    ha.kill(name, f"{component}.service")

    until(lambda: ha.reaches_api(name), what=f"{name} serves", timeout_s=60)
    ha.wait_ready()


def test_a_master_that_listens_without_being_ready_gets_no_requests(ha: Fleet) -> None:
    name, client = "hs-master-2", "hs-worker-1"
    address = str(ha.machines[name].address.ip)

    ha.inside(name, "/usr/bin/systemctl", "stop", "etcd.service")
    try:
        until(lambda: not ha.reaches_api(name), what=f"{name} isn't ready", timeout_s=60)
        until(
            lambda: all(ha.reaches_api(client, BALANCER) for _ in range(20)),
            what="20 requests in turn that others answer", timeout_s=30,
        )  # fmt: skip
        until(lambda: VIP not in ha.addresses(name), what="another holder", timeout_s=30)
        assert ha.reaches_api(client, f"{VIP}:6443")
        connect = f"import socket; socket.create_connection(({address!r}, 6443))"
        ha.inside(client, "/usr/bin/python3", "-c", connect)
    finally:
        ha.inside(name, "/usr/bin/systemctl", "start", "etcd.service")

    until(lambda: ha.reaches_api(name), what=f"{name} serves", timeout_s=60)
    ha.wait_ready()


@pytest.mark.parametrize("by_ms", [50, 200])
def test_a_slow_disk_of_the_leader_costs_time_and_neither_writes_nor_elections(
    ha: Fleet, by_ms: int, tmp_path: Path
) -> None:
    status = {name: etcd_status(ha, name) for name in ha.names("master")}
    leader = next(name for name, said in status.items() if said.is_leader)

    with slow_syncs(ha, leader, "etcd.service", by_ms=by_ms, scratch=tmp_path):
        name = f"slow-{by_ms}"
        said = write_beside_a_loss(ha, "hs-worker-1", BALANCER, name=name, loss=str)

    print(f"writes while {leader}'s disk is {by_ms} ms late: {said}")
    assert said.acknowledged > 20
    assert said.longest_s < BACK_S
    assert etcd_status(ha, leader).term - status[leader].term <= MOST_ELECTIONS
    assert slowest_syncs_s(ha, leader) >= by_ms / 1000 / 2, "whoever watches the metric sees it"


@pytest.mark.parametrize(
    "way", [BALANCER, f"{VIP}:6443"], ids=["a worker's balancer", "the virtual address"]
)
def test_no_acknowledged_write_is_lost_with_the_master_that_takes_it(ha: Fleet, way: str) -> None:
    name, lost, lost_at = f"load-{way.rpartition(':')[2]}", list[str](), list[float]()

    def lose(master: str) -> None:
        lost.append(master)
        lost_at.append(time.time())
        ha.cut_off(master)

    with ThreadPoolExecutor(1) as pool:
        watches = pool.submit(watch_until_they_end, ha, "hs-worker-1", BALANCER, masters=3)
        said = write_beside_a_loss(ha, "hs-worker-1", way, name=name, loss=lose)

    print(f"writes through {way} beside the loss of {lost}: {said}")
    assert said.peers[0] == lost[0], "the client was connected to the one that was lost"
    assert set(said.peers[1:]) - set(lost), "and then to another one"
    assert said.acknowledged > 50
    assert said.longest_s < BACK_S
    silent = [(ended or inf) - lost_at[0] for peer, ended in watches.result() if peer == lost[0]]
    print(f"silent watches of {lost} through the balancer ended after {silent} s")
    assert max(silent, default=inf) < BACK_S

    # This host's own way to the API leads to the first master, which may be the one.
    ha.boot(lost)
    until(lambda: ha.reaches_api(lost[0]), what=f"{lost[0]} serves", timeout_s=120)
    ha.wait_ready()
    there = ha.kubectl("get", "configmaps", "--output=name").text.split()
    assert {f"configmap/{name}-{i}" for i in range(said.acknowledged)} <= set(there)


def test_a_member_whose_disk_was_wiped_does_not_vote_until_it_is_added_anew(ha: Fleet) -> None:
    name, other = "hs-master-3", "hs-master-1"
    keys = etcd_keys(ha, other, write=1_000)
    ha.cut_off(name)
    shutil.rmtree(ha.machines[name].run_dir / "upper/var/lib/etcd/member")
    ha.machines[name].console_log.write_text("")

    ha.boot([name])

    until(lambda: "KUBEKILN etcd=refused" in ha.console(name), what="a refusal", timeout_s=120)
    assert "knows it as a member that has run" in ha.console(name)
    listed = ha.etcdctl(other, "member", "list")
    member_id = next(line.split(",")[0] for line in listed.splitlines() if f", {name}," in line)
    assert len(listed.splitlines()) == 3

    ha.etcdctl(other, "member", "remove", member_id)
    url = f"https://{ha.machines[name].address.ip}:2380"
    ha.etcdctl(other, "member", "add", name, f"--peer-urls={url}")

    until(lambda: ha.reaches_api(name), what=f"{name} serves", timeout_s=120)
    ha.wait_ready()
    assert member_id not in ha.etcdctl(other, "member", "list")
    assert etcd_keys(ha, name) == keys


def test_after_a_power_cut_of_all_everything_is_there_again(ha: Fleet) -> None:
    ha.kubectl("create", "configmap", "kept", "--from-literal=k=v")
    ha.cut_off(*ha.machines)
    for machine in ha.machines.values():
        machine.console_log.write_text("")

    order = list(ha.machines)
    random.Random(SEED + 1).shuffle(order)
    ha.boot(order)

    ha.wait_ready()
    kept = ha.kubectl("get", "configmap", "kept", "--output=jsonpath={.data.k}").text
    assert kept == "v"
    ha.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=180s")
    # Its interface has another name than at the first boot.
    until(
        lambda: ha.reaches_api("hs-worker-1", f"{VIP}:6443"), what="the VIP leads on", timeout_s=60
    )


def test_a_lost_majority_is_made_good_from_a_snapshot(ha: Fleet) -> None:
    kept, *lost = ha.names("master")
    before = etcd_keys(ha, kept, write=10_000)
    ha.etcdctl(kept, "snapshot", "save", SNAPSHOT)
    snapshot = ha.inside(kept, "/usr/bin/cat", SNAPSHOT).stdout
    ha.cut_off(*lost)
    for name in lost:
        shutil.rmtree(ha.machines[name].run_dir / "upper/var/lib/etcd/member")
        ha.machines[name].console_log.write_text("")

    ha.boot(lost)
    for name in lost:
        until(lambda name=name: "KUBEKILN etcd=refused" in ha.console(name),
              what=f"a refusal of {name}", timeout_s=120)  # fmt: skip
    with pytest.raises(CommandFailed):
        ha.etcdctl(kept, "--command-timeout=2s", "put", "restore-test/late", "x")

    for name in ha.names("master"):
        ha.inside(name, "/usr/bin/tee", SNAPSHOT, stdin=snapshot)
        ha.inside(name, "/usr/lib/kubekiln/etcd-restore", SNAPSHOT)

    for name in ha.names("master"):
        until(lambda name=name: ha.reaches_api(name), what=f"{name} serves", timeout_s=120)
    assert [etcd_keys(ha, name) for name in ha.names("master")] == [before] * 3
    ha.wait_ready()
    ha.kubectl("create", "configmap", "written-afterwards")
