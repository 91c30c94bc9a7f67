# SPDX-License-Identifier: Apache-2.0
"""Do the examples become Ready in virtual machines too, and a node after a reboot or a power cut?

`make e2e-vm`, not `make test`: slow where they are emulated.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cloudinit.rules import load_cluster
from kubekiln.operations.prepare import bake_image, load, render
from kubekiln.operations.up import plan_machines
from kubekiln.operations.wait import ready_names
from kubekiln.process import run
from pipeline.targets.console import read_console
from pipeline.targets.qemu import QemuTarget
from tests.e2e.conftest import BOOT_S, Lab, changed_qemu, free_port
from tests.support.firmware import FIRMWARE
from tests.support.fleet import plan_fleet
from tests.support.network import unanswered
from tests.support.pods import web_restarts
from tests.support.waiting import until

# Five emulated machines on two cores; with KVM minutes.
READY_S = 3000.0
PODS_S = 900.0
# Members that share two cores, emulated, answer each other in seconds rather than in 100 ms, and an
# API takes longer than the 10 s for which controllers try to keep their leases.
PATIENT = {
    "etcd": {"heartbeat_ms": 500, "election_ms": 5000},
    "leader_election": {"lease_s": 300, "renew_s": 240, "retry_s": 20},
}

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.timeout(READY_S + 1800)]


def ready_nodes(lab: Lab, name: str) -> frozenset[str]:
    return ready_names(json.loads(lab.kubectl(name, "get", "nodes", "--output=json").stdout))


def wait_for_name_servers(lab: Lab, name: str) -> None:
    # Not `rollout status`, which gives up for good: where five machines are emulated, the
    # Deployment's ten minutes are long over when its pods have a node.
    lab.kubectl(
        name, "wait", "--for=condition=Available", "deploy/coredns", "-n=kube-system",
        f"--timeout={PODS_S}s",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["single-master", "ha-stacked"])
def test_all_nodes_get_ready_and_pods_reach_each_other(lab: Lab, image: Path, name: str) -> None:
    assert image.exists()
    lab.set_host_port(name, free_port())
    lab.edit_cluster(name, lambda config: config.update(PATIENT))
    up = lab.command("up", name, "--target", "qemu", "--timeout", str(READY_S))
    try:
        said = run(replace(up, timeout_s=READY_S + 600))
        print(said.stderr.decode(errors="replace"), said.text)

        wanted = [node.name for node in load_cluster(name, lab.project).nodes]
        assert ready_nodes(lab, name) == set(wanted)
        wait_for_name_servers(lab, name)
        lab.apply(name, "web.yaml")
        lab.kubectl(name, "rollout", "status", "deploy/web", "-n=e2e", f"--timeout={PODS_S}s")
        lab.apply(name, "client.yaml")
        lab.kubectl(
            name, "wait", "--for=condition=Complete", "job/client", "-n=e2e", f"--timeout={PODS_S}s"
        )
    finally:
        lab.kubekiln("down", name)


def test_a_node_gets_ready_under_secure_boot(lab: Lab, image: Path, tmp_path: Path) -> None:
    assert image.exists()
    name = "secure"
    nodes = lab.add_cluster(name)
    firmware = shlex.join(FIRMWARE["Secure Boot"])
    up = lab.command("up", name, "--target", "qemu", "--timeout", str(BOOT_S))
    path = changed_qemu(tmp_path, f'[[ " $* " != *" -name "* ]] || set -- "$@" {firmware}\n')
    try:
        run(replace(up, env={**up.env, "PATH": path}))

        console = lab.machine(name, nodes[0]).console_log.read_text(errors="replace")
        assert "UEFI Secure Boot is enabled" in console
        assert ready_nodes(lab, name) == set(nodes)
    finally:
        lab.kubekiln("down", name)


def test_kubeadm_makes_a_cluster_of_virtual_machines(lab: Lab, image: Path) -> None:
    assert image.exists()
    name = "by-kubeadm"
    nodes = lab.add_cluster(name, workers=1)
    lab.edit_cluster(name, lambda config: config.update(bootstrap="kubeadm"))
    try:
        lab.kubekiln("up", name, "--target", "qemu", "--timeout", str(BOOT_S))

        assert ready_nodes(lab, name) == set(nodes)
        pods = lab.kubectl(name, "get", "pods", "-n=kube-system", "--output=name").text
        assert f"pod/kube-apiserver-{nodes[0]}" in pods
        wait_for_name_servers(lab, name)
    finally:
        lab.kubekiln("down", name)


def test_pods_reach_each_other_by_ipv4_and_by_ipv6(lab: Lab, image: Path) -> None:
    assert image.exists()
    name = "dual-stack"
    lab.set_host_port(name, free_port())
    try:
        lab.kubekiln("up", name, "--target", "qemu", "--timeout", str(BOOT_S))
        wait_for_name_servers(lab, name)

        machines = plan_fleet(lab.project, name, QemuTarget())
        assert unanswered(replace(machines, patience_s=PODS_S)) == {}
    finally:
        lab.kubekiln("down", name)


def test_a_node_is_ready_again_after_a_reboot_with_its_pods(lab: Lab, image: Path) -> None:
    assert image.exists()
    name = "reboots"
    (node,) = lab.add_cluster(name)
    lab.kubekiln("up", name, "--target", "qemu", "--timeout", str(BOOT_S))
    try:
        lab.apply(name, "web.yaml")
        lab.kubectl(name, "rollout", "status", "deploy/web", "-n=e2e", f"--timeout={PODS_S}s")
        console = lab.machine(name, node).console_log

        lab.apply(name, "reboot.yaml")

        until(
            lambda: console.read_text(errors="replace").count("KUBEKILN complete") == 2,
            what="a second complete boot", timeout_s=BOOT_S,
        )  # fmt: skip
        until(
            lambda: min(web_restarts(partial(lab.kubectl, name)), default=0) > 0,
            what="its pods started anew", timeout_s=BOOT_S, every_s=3,
        )  # fmt: skip
    finally:
        lab.kubekiln("down", name)


@pytest.mark.parametrize("slot", ["", "0x1c"], ids=["as it was", "with its card in another slot"])
def test_a_machine_that_lost_power_after_its_first_activation_has_its_role_again(
    lab: Lab, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot: str
) -> None:
    assert image.exists()
    name = f"early{slot}"
    # That of a master listens on the node's own address; the worker isn't booted.
    lab.add_cluster(name, workers=1)
    plan = load(lab.project, name)
    rendered = render(lab.project, plan)
    machine, _ = plan_machines(lab.project, plan.cluster, rendered, bake_image(lab.project, plan))
    target = QemuTarget()

    def has_etcd() -> bool:
        report = read_console(machine.console_log)
        assert not report.refusals
        return report.has("etcd")

    def boot_until_etcd() -> None:
        target.boot(machine)
        until(has_etcd, what=f"etcd of {machine.name}", timeout_s=BOOT_S, every_s=0.5)

    try:
        # The marks of the first activation are then on the disk: ext4 commits every five seconds.
        # Contents may wait for thirty.
        boot_until_etcd()
        target.stop(machine, graceful=False)
        if slot:
            # The kernel calls the card otherwise now.
            swap = f'set -- "${{@/virtio-net-pci,/virtio-net-pci,addr={slot},}}"\n'
            monkeypatch.setenv("PATH", changed_qemu(tmp_path, swap))

        boot_until_etcd()

        words = Path(f"/proc/{target.status(machine).pid}/cmdline").read_bytes()
        assert f"addr={slot}".encode() in words or not slot
    finally:
        target.destroy(machine)
