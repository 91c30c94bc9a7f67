# SPDX-License-Identifier: Apache-2.0
"""Is a cluster made of options alone as handy as one of Minikube's? (nspawn: images need a door.)

The tests share one cluster and run in the order in which they stand here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from kubekiln.operations.wait import ready_names
from kubekiln.process import Command, run, spawn
from pipeline.lock import Image
from pipeline.sources.compose import compose_image
from pipeline.targets.nspawn import NspawnTarget
from tests.e2e.conftest import BOOT_S, Lab, Running
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.in_order,
    pytest.mark.timeout(2 * BOOT_S),
]  # fmt: skip

NAME, NODES, LATER = "handy", ["handy-master-1", "handy-worker-1"], "handy-worker-2"
HEALTH = f"/api/v1/nodes/{LATER}/proxy/healthz"
OWN_IMAGE = "docker.io/library/mine:1"
ADDON = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: hello, namespace: default}
data: {nodes: "{{ nodes }} nodes"}
"""
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "mine"},
    "spec": {
        "restartPolicy": "Never",
        "containers": [{"name": "mine", "image": "mine:1", "imagePullPolicy": "Never"}],
    },
}
# Runs on the machine that came later, of what each image holds.
LATE_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "late"},
    "spec": {
        "nodeName": LATER,
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "late",
                "image": "registry.k8s.io/pause:3.10.2",
                "imagePullPolicy": "Never",
                "command": ["/pause", "-v"],
            }
        ],
    },
}
# Who may do what with the list of nodes.
RIGHTS = {
    "approver": ("get", "kubekiln:csr-approver", "kubekiln:nobody", "yes"),
    "approver writes": ("update", "kubekiln:csr-approver", "kubekiln:nobody", "no"),
    "node": ("get", f"system:node:{LATER}", "system:nodes", "no"),
    "node writes": ("patch", f"system:node:{LATER}", "system:nodes", "no"),
    "pool's token": ("get", "system:bootstrap:1", "system:bootstrappers:kubekiln:p", "no"),
    "pool's token writes": (
        "create",
        "system:bootstrap:1",
        "system:bootstrappers:kubekiln:p",
        "no",
    ),
}


@pytest.fixture(scope="module")
def handy(lab: Lab, image: Path) -> Iterator[Running]:
    """A cluster of two nodes that nobody wrote a config for."""
    (lab.root / "kubeconfig").unlink(missing_ok=True)
    said = lab.kubekiln(
        "up", NAME, "--nodes", "2", "--memory", "2048", "--target", "nspawn",
        "--timeout", str(BOOT_S),
    )  # fmt: skip
    yield Running(lab, NAME, "nspawn", said.text, NODES, NODES)
    lab.kubekiln("down", NAME, "--forget")


def test_both_nodes_are_ready_and_a_later_up_needs_no_option(handy: Running) -> None:
    nodes = json.loads(handy.kubectl("get", "nodes", "--output=json").stdout)

    assert ready_names(nodes) == set(NODES)
    assert b"runs already" in handy.lab.kubekiln("up", NAME).stderr


def test_an_image_of_ones_own_runs_as_a_pod(handy: Running, tmp_path: Path) -> None:
    archive, pod = tmp_path / "mine.tar", tmp_path / "pod.yaml"
    image = Image(reference=OWN_IMAGE, binary="kubectl", entrypoint=("/kubectl", "version"))
    kubectl = next((handy.lab.project.build_dir / "bin").glob("*/kubectl"))
    compose_image(image, kubectl, archive, architecture="amd64")
    pod.write_text(yaml.safe_dump(POD))

    said = handy.lab.kubekiln("image", "load", str(archive), "--on", NAME).text
    handy.kubectl("apply", "--filename", str(pod))

    assert said == f"{OWN_IMAGE} is on {', '.join(NODES)}"
    until(
        lambda: b"Client Version" in handy.kubectl("logs", "mine", check=False).stdout,
        what="the pod's words",
        timeout_s=120,
    )


def test_an_addon_is_applied_and_deleted(handy: Running) -> None:
    (handy.lab.project.configs_dir / "addons" / "hello.yaml").write_text(ADDON)

    handy.lab.kubekiln("addons", "enable", "hello", "--on", NAME)
    value = handy.kubectl("get", "configmap", "hello", "--output=jsonpath={.data.nodes}").text
    handy.lab.kubekiln("addons", "disable", "hello", "--on", NAME)

    assert value == "2 nodes"
    assert handy.kubectl("get", "configmap", "hello", check=False).returncode != 0


@pytest.mark.parametrize("kind", ["NodePort", "LoadBalancer"])
def test_a_tunnel_leads_to_a_service_and_ends_well(
    handy: Running, tmp_path: Path, kind: str
) -> None:
    name, namespace = f"door-{kind.lower()}", "--namespace=kube-system"
    handy.kubectl("rollout", "status", "deploy/coredns", namespace)
    handy.kubectl(
        "expose", "deploy/coredns", namespace, f"--name={name}", f"--type={kind}", "--port=9153"
    )
    log = tmp_path / "said"
    with log.open("wb") as out:
        child = spawn(handy.lab.command("tunnel", name, namespace, "--on", NAME), stdout=out)
    with contextlib.ExitStack() as stack:
        stack.callback(child.kill)
        until(lambda: ":9153" in log.read_text(), what="the URL", timeout_s=60)
        url = next(line.split()[0] for line in log.read_text().splitlines() if ":9153" in line)

        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            assert b"coredns_build_info" in answer.read()

        os.kill(child.pid, signal.SIGINT)
        assert child.wait(30) == 0


def traces(handy: Running, name: str) -> tuple[object, ...]:
    """Tell what a machine that is replaced, booted again or given something would show."""
    machine = handy.lab.machine(NAME, name)
    seed = [path.read_bytes() for path in sorted(machine.seed_dir.iterdir())]
    uid = handy.kubectl("get", f"node/{name}", "--output=jsonpath={.metadata.uid}").text
    return NspawnTarget().status(machine).pid, seed, uid


def test_a_worker_that_is_declared_later_is_reached_and_no_other_machine_is_touched(
    handy: Running, tmp_path: Path
) -> None:
    path = handy.lab.project.profile_path(NAME)
    config = yaml.safe_load(path.read_text())
    worker = config["nodes"][-1]
    address = str(ip_address(worker["address"]) + 1)
    config["nodes"].append({**worker, "name": LATER, "address": address})
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    before = [traces(handy, name) for name in NODES]

    said = handy.lab.kubekiln("up", NAME, "--timeout", str(BOOT_S)).stderr.decode()

    assert "configmap/kubekiln-nodes serverside-applied" in said
    assert f"Booting {LATER}" in said
    nodes = json.loads(handy.kubectl("get", "nodes", "--output=json").stdout)
    assert ready_names(nodes) == {*NODES, LATER}
    until(
        lambda: handy.kubectl("get", f"--raw={HEALTH}", check=False).text == "ok",
        what=f"the kubelet of {LATER} answers the API", timeout_s=60,
    )  # fmt: skip
    (tmp_path / "late.yaml").write_text(yaml.safe_dump(LATE_POD))
    handy.kubectl("apply", "--filename", str(tmp_path / "late.yaml"))
    until(
        lambda: b"pause" in handy.kubectl("logs", "late", check=False).stdout,
        what="the words of a pod on it", timeout_s=60,
    )  # fmt: skip
    assert [traces(handy, name) for name in NODES] == before


def test_only_administrators_say_which_nodes_there_are(handy: Running) -> None:
    answers = {}
    for case, (verb, user, group, _) in RIGHTS.items():
        said = handy.kubectl(
            "auth", "can-i", verb, "configmaps/kubekiln-nodes", "--namespace=kube-system",
            f"--as={user}", f"--as-group={group}", check=False,
        )  # fmt: skip
        answers[case] = said.text.split(" - ")[0]

    assert answers == {case: answer for case, (*_, answer) in RIGHTS.items()}


def test_the_context_is_in_the_users_kubeconfig_until_down(handy: Running) -> None:
    path = handy.lab.root / "kubeconfig"
    merge = handy.lab.command("kubeconfig", "merge", NAME)
    run(replace(merge, env={**merge.env, "KUBECONFIG": str(path)}))
    kubectl = next((handy.lab.project.build_dir / "bin").glob("*/kubectl"))

    run(Command([kubectl, f"--kubeconfig={path}", "--context", NAME, "get", "nodes"]))
    handy.lab.kubekiln("down", NAME)

    assert yaml.safe_load(path.read_text())["contexts"] == []
    assert b"no machines" in handy.lab.kubekiln("status", NAME).stdout
