# SPDX-License-Identifier: Apache-2.0
"""Do machines of the same image become a cluster by kubeadm, in any order, and stay one?

First the small ones; then one cluster of three masters and a worker, as container machines, whose
tests run in the order in which they stand here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudinit.modeltypes import BackendName
from tests.e2e.conftest import BOOT_S, ROOT, Lab, free_port
from tests.support.fleet import Fleet, fleet
from tests.support.network import pods_mtu, unanswered
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

NAME, FIRST, WORKER = "kubeadm", "ka-master-1", "ka-worker-1"
KUBEADM = "/usr/local/bin/kubeadm"
BACKEND: BackendName = "host-gw"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


def test_one_machine_comes_up_as_well(lab: Lab, image: Path) -> None:
    assert image.exists()
    nodes = lab.add_cluster("alone")
    lab.edit_cluster("alone", lambda config: config.update(bootstrap="kubeadm"))
    with fleet(lab.project, "alone") as made:
        made.boot(nodes)

        made.wait_ready()
        made.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=120s")


def test_two_with_two_families_and_routes_instead_of_tunnels_come_up_as_well(
    lab: Lab, image: Path
) -> None:
    assert image.exists()
    name = "two"
    # As it is shipped: the lab's is test_dual_stack.py's, too, which makes it one of IPv6 alone.
    shutil.copy(ROOT / "configs/clusters/dual-stack.yaml", lab.cluster_path(name))
    lab.set_host_port(name, free_port())
    lab.edit_cluster(name, lambda config: config.update(name=name, bootstrap="kubeadm"))
    # Rendered so; the examples that are booted have vxlan and udp.
    lab.edit_cluster(name, lambda config: config["network"].update(flannel={"backend": BACKEND}))
    with fleet(lab.project, name) as made:
        made.boot(reversed(made.machines))

        made.wait_ready()
        made.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=120s")
        mtu = ["holds", "/sys/class/net/eth0/mtu", str(pods_mtu(made, BACKEND))]
        assert unanswered(made, more=[mtu]) == {}


@pytest.fixture(scope="module")
def made(lab: Lab, image: Path) -> Iterator[Fleet]:
    """The machines, of which nothing has booted yet."""
    assert image.exists()
    lab.set_host_port(NAME, free_port())
    with fleet(lab.project, NAME) as machines:
        yield machines


def test_an_init_that_lost_power_is_taken_up_again(made: Fleet) -> None:
    made.boot([FIRST])
    manifest = made.machines[FIRST].run_dir / "upper/etc/kubernetes/manifests/etcd.yaml"
    # It asks for the other masters, which are off, for 45 s.
    until(manifest.exists, what=f"kubeadm init on {FIRST}", timeout_s=180)

    made.cut_off(FIRST)
    made.boot([FIRST])

    made.wait_ready([FIRST])


def test_workers_and_masters_join_in_any_order(made: Fleet) -> None:
    made.boot([WORKER, "ka-master-3", "ka-master-2"])

    made.wait_ready()
    until(
        lambda: all(made.is_complete(name) for name in made.machines),
        what="every machine complete",
        timeout_s=120,
    )


def test_the_control_plane_is_static_pods_of_the_images_own_programs(made: Fleet) -> None:
    wanted = {f"{part}-{name}" for part in COMPONENTS for name in made.names("master")}

    # A kubelet that has just come says a little later of its pods that they run.
    until(lambda: running_pods(made) >= wanted, what="all static pods run", timeout_s=120)
    unit = made.inside(FIRST, "/usr/bin/systemctl", "is-active", "kube-apiserver", check=False)
    assert unit.text == "inactive"


def running_pods(made: Fleet) -> set[str]:
    said = made.kubectl("get", "pods", "-n=kube-system", "--output=json").stdout
    pods = json.loads(said)["items"]
    return {pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"}


def test_kubeadm_finds_its_configuration_valid(made: Fleet) -> None:
    for name, file in ((FIRST, "init"), (FIRST, "join"), (WORKER, "join")):
        config = f"--config=/etc/kubernetes/kubeadm/{file}.yaml"
        assert made.inside(name, KUBEADM, "config", "validate", config).text == "ok"


def test_no_token_is_left_in_the_cluster(made: Fleet) -> None:
    secrets = made.kubectl("get", "secrets", "-n=kube-system", "--output=name").text

    assert "bootstrap-token" not in secrets


def test_secrets_rest_encrypted(made: Fleet) -> None:
    made.kubectl("create", "secret", "generic", "kept", "--from-literal=k=plain-words")
    pki = "/etc/kubernetes/pki/etcd"
    files = (f"--cacert={pki}/ca.crt", f"--cert={pki}/server.crt", f"--key={pki}/server.key")
    path = "/registry/secrets/default/kept"

    stored = made.inside(FIRST, "/usr/local/bin/etcdctl", *files, "get", path).stdout

    assert b"k8s:enc:secretbox" in stored and b"plain-words" not in stored


def test_pods_of_all_nodes_reach_pods_services_ports_and_names(made: Fleet) -> None:
    made.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=120s")

    assert unanswered(made) == {}


def test_after_a_power_cut_of_all_everything_is_there_again(made: Fleet) -> None:
    made.cut_off(*made.machines)
    for machine in made.machines.values():
        machine.console_log.write_text("")

    made.boot(reversed(made.machines))

    made.wait_ready()
    kept = made.kubectl("get", "secret", "kept", "--output=jsonpath={.data.k}").text
    assert kept == "cGxhaW4td29yZHM="


def test_a_first_master_that_lost_its_disk_joins_instead_of_beginning_anew(made: Fleet) -> None:
    other = "ka-master-2"
    before = made.kubectl("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}")
    made.target.destroy(made.machines[FIRST])
    forget(made, FIRST, by=other)

    made.boot([FIRST])

    made.wait_ready()
    until(lambda: made.is_complete(FIRST), what=f"{FIRST} complete", timeout_s=120)
    after = made.kubectl("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}")
    assert before.text == after.text
    began = made.inside(FIRST, "/usr/bin/test", "-e", "/var/lib/kubekiln/kubeadm-init", check=False)
    assert began.returncode != 0


def forget(made: Fleet, name: str, *, by: str) -> None:
    """Take a lost master out of etcd and of the nodes, as docs/kubeadm.md says."""
    pki = "/etc/kubernetes/pki/etcd"
    files = (f"--cacert={pki}/ca.crt", f"--cert={pki}/server.crt", f"--key={pki}/server.key")
    etcdctl = ("/usr/local/bin/etcdctl", *files, "member")
    listed = made.inside(by, *etcdctl, "list").text.splitlines()
    member = next(line.split(",")[0] for line in listed if f", {name}," in line)
    made.inside(by, *etcdctl, "remove", member)
    # In the machine: the host's way to the API was by the one that is gone.
    kubectl = ("/usr/local/bin/kubectl", "--kubeconfig=/etc/kubernetes/admin.conf")
    made.inside(by, *kubectl, "delete", "node", name)
