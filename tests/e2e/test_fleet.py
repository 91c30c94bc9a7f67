# SPDX-License-Identifier: Apache-2.0
"""Do several machines become one cluster in any order, carry pods' traffic, and survive losses?

One cluster of three masters and two workers, as container machines; its tests run in the order in
which they stand here.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import BOOT_S, ROOT, Lab, free_port
from tests.support.fleet import Fleet, fleet
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

IN_POD = ROOT / "tests/support/in_pod"
SEED = int(os.environ.get("KUBEKILN_TEST_SEED", "20261123"))
LATE = "hs-master-3"
VIP = "https://10.82.0.10:6443/readyz"
CA = "/etc/kubernetes/pki/ca.crt"
# What a client with a retry may notice of a master's loss.
BACK_S = 5.0
COMPONENTS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
    "flanneld", "haproxy", "keepalived", "containerd",
)  # fmt: skip


@pytest.fixture(scope="module")
def ha(lab: Lab, image: Path) -> Iterator[Fleet]:
    """Three masters and two workers, of which nothing has booted yet."""
    assert image.exists()
    lab.set_host_port("ha-stacked", free_port())
    with fleet(lab.project, "ha-stacked") as made:
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


def test_pods_of_all_nodes_reach_pods_services_ports_and_names(ha: Fleet) -> None:
    ha.kubectl("apply", "--filename", str(ROOT / "tests/e2e/manifests/net.yaml"))
    ha.kubectl("rollout", "status", "daemonset/net", "-n=e2e", "--timeout=180s")
    ha.kubectl("rollout", "status", "statefulset/set", "-n=e2e", "--timeout=180s")
    pods = ha.pods("app=net")
    assert {node for _, _, node in pods} == set(ha.nodes)
    nodes = [str(ha.machines[name].address.ip) for name in ha.nodes]
    # 1,400 bytes fit into one packet of every backend, 8,000 are fragmented.
    questions: list[list[Any]] = [["http", f"http://{ip}:8080/"] for _, ip, _ in pods]
    questions += [["echo", ip, size] for _, ip, _ in pods for size in (1400, 8000)]
    questions += [["http", f"http://{name}/"] for name in ("net", "net.e2e.svc.cluster.local")]
    questions += [["http", f"http://set-{i}.set.e2e.svc.cluster.local:8080/"] for i in (0, 1)]
    questions += [["http", f"http://{ip}:{port}/"] for ip in nodes for port in (30080, 18080)]

    for name, _, node in pods:
        said = ha.kubectl(
            "exec", "-n=e2e", name, "--", "/usr/bin/python3", "-c",
            (IN_POD / "ask.py").read_text(), json.dumps(questions),
        )  # fmt: skip
        assert json.loads(said.stdout) == [], f"asked by {name} on {node}"


def test_the_virtual_address_leads_to_a_master(ha: Fleet) -> None:
    wait = ("/usr/lib/kubekiln/wait-for-api", VIP, "10", CA)

    assert ha.inside("hs-worker-1", *wait).returncode == 0
    holders = [n for n in ha.names("master") if "10.82.0.10" in addresses(ha, n)]
    assert len(holders) == 1


def addresses(ha: Fleet, name: str) -> str:
    return ha.inside(name, "/usr/sbin/ip", "-brief", "address").text


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_that_is_killed_comes_back(ha: Fleet, component: str) -> None:
    name, unit = "hs-master-2", f"{component}.service"
    before = main_pid(ha, name, unit)
    assert before > 0

    ha.inside(name, "/usr/bin/systemctl", "kill", "--signal=SIGKILL", unit)

    until(
        lambda: main_pid(ha, name, unit) not in (0, before),
        what=f"another {unit} on {name}", timeout_s=60,
    )  # fmt: skip
    until(lambda: is_serving(ha, name), what=f"{name} serves", timeout_s=60)
    ha.wait_ready()


def main_pid(ha: Fleet, name: str, unit: str) -> int:
    said = ha.inside(name, "/usr/bin/systemctl", "show", "--property=MainPID,ActiveState", unit)
    values = dict(line.split("=", 1) for line in said.text.splitlines())
    return int(values["MainPID"]) if values["ActiveState"] == "active" else 0


def is_serving(ha: Fleet, name: str) -> bool:
    url = "https://127.0.0.1:6443/readyz"
    wait = ("/usr/lib/kubekiln/wait-for-api", url, "0", CA)
    return ha.inside(name, *wait, check=False).returncode == 0


def test_no_acknowledged_write_is_lost_with_a_master(ha: Fleet) -> None:
    lost, writer = "hs-master-3", "hs-master-2"
    cut = threading.Timer(6, ha.cut_off, [lost])
    cut.start()

    program = (IN_POD / "write.py").read_bytes()
    said = json.loads(ha.inside(writer, "/usr/bin/python3", "-", "25", stdin=program).text)
    cut.join()

    print(f"writes beside the loss of {lost}: {said}")
    assert said["acknowledged"] > 50
    assert said["longest_s"] < BACK_S
    there = ha.kubectl("get", "configmaps", "--output=name").text.split()
    assert {f"configmap/load-{i}" for i in range(said["acknowledged"])} <= set(there)


def test_the_lost_master_comes_back(ha: Fleet) -> None:
    ha.boot(["hs-master-3"])

    until(lambda: is_serving(ha, "hs-master-3"), what="hs-master-3 serves", timeout_s=120)
    ha.wait_ready()


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
