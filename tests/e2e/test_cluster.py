# SPDX-License-Identifier: Apache-2.0
"""Does the baked image become a working cluster by its user-data alone, on every target?

A container machine that is a cluster, then a virtual one. The tests of one target share its cluster
and run in the order in which they stand here.
"""

from __future__ import annotations

import json

import pytest

from kubekiln.operations.wait import ready_names
from pipeline.targets.console import read_console
from tests.e2e.conftest import BOOT_S, FURTHER_NETWORK, VLAN, Running
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2 * BOOT_S)]

PODS_S = "600s"


def test_up_ends_with_ready_nodes_and_says_how_to_use_it(cluster: Running) -> None:
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output=json").stdout)

    assert ready_names(nodes) == set(cluster.nodes)
    assert f"export KUBECONFIG={cluster.lab.root}/state/{cluster.name}" in cluster.said


def test_a_machine_whose_clock_is_an_hour_behind_is_put_forward(cluster: Running) -> None:
    if cluster.target == "nspawn":
        pytest.skip("a container machine has its host's clock, which nobody sets here")

    assert "KUBEKILN clock=advanced" in cluster.last.console_log.read_text(errors="replace")


def test_the_nodes_kubernetes_is_the_pinned_one(cluster: Running) -> None:
    version = json.loads(cluster.kubectl("version", "--output=json").stdout)
    nodes = json.loads(cluster.kubectl("get", "nodes", "--output=json").stdout)

    server = version["serverVersion"]["gitVersion"]
    assert server == version["clientVersion"]["gitVersion"] == "v1.37.1"
    kubelets = {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes["items"]}
    assert kubelets == {server}


def test_up_again_finds_everything_done(cluster: Running) -> None:
    again = cluster.lab.kubekiln("up", cluster.name, "--target", cluster.target)

    assert again.stderr.count(b"runs already") == len(cluster.nodes)
    assert "is Ready" in again.text


def test_the_systems_deployments_get_available(cluster: Running) -> None:
    cluster.kubectl(
        "wait", "--for=condition=Available", "deployments", "--all", "--namespace=kube-system",
        f"--timeout={PODS_S}",
    )  # fmt: skip


def test_a_service_answers_by_address_and_by_name_from_another_pod(cluster: Running) -> None:
    ask_the_web_server(cluster)

    if len(cluster.nodes) > 1:
        assert nodes_of(cluster, "app=web").isdisjoint(nodes_of(cluster, "job-name=client"))


def test_a_pods_log_and_a_command_in_it_reach_the_host(cluster: Running) -> None:
    said = cluster.kubectl(
        "exec", "--namespace=e2e", "deploy/web", "--", "/usr/bin/python3", "-c", "print(6 * 7)"
    )

    assert said.text == "42"


def test_the_nodes_network_is_tagged_and_a_further_card_leads_to_another(cluster: Running) -> None:
    if cluster.target == "nspawn":
        pytest.skip("no VLAN in container machines; their further cards: test_node_networks.py")

    cluster.lab.apply(cluster.name, "links.yaml")
    cluster.kubectl(
        "wait", "--for=condition=Complete", "job/links", "--namespace=e2e", f"--timeout={PODS_S}"
    )

    heard = cluster.log("job/links")
    assert f"vlan vlan{VLAN} lower_e" in heard
    assert "from 10.80.0.11 to 10.80.0.1:53" in heard
    assert f"from {FURTHER_NETWORK}.11 to {FURTHER_NETWORK}.12:9" in heard
    assert "etcd is on ext4 of /dev/vdb" in heard


def test_status_shows_the_machine(cluster: Running) -> None:
    shown = cluster.lab.kubekiln("status", cluster.name).text

    for name in cluster.nodes:
        line = next(line for line in shown.splitlines() if name in line)
        assert "running" in line
        assert "complete" in line


def test_a_rebooted_node_gets_ready_again_and_so_do_its_pods(cluster: Running) -> None:
    machine = cluster.last
    boots = machine.console_log.read_text(errors="replace").count("KUBEKILN complete")

    cluster.lab.apply(cluster.name, "reboot.yaml")
    until(
        lambda: machine.console_log.read_text(errors="replace").count("KUBEKILN complete") > boots,
        what=f"a second complete boot of {machine.name}",
        timeout_s=BOOT_S,
    )

    assert read_console(machine.console_log).complete
    cluster.kubectl("wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={PODS_S}")
    # Also that etcd's data is where it was.
    until(
        lambda: is_running_again(cluster, "app=web"),
        what="the web server's pods run again", timeout_s=BOOT_S, every_s=3,
    )  # fmt: skip
    # An emulated machine needs minutes for another client; the network is the first boot's.
    if cluster.target == "nspawn":
        cluster.kubectl("delete", "job", "client", "--namespace=e2e")
        ask_the_web_server(cluster)


def is_running_again(cluster: Running, selector: str) -> bool:
    """Tell whether the containers of these pods were started anew and are ready."""
    said = cluster.kubectl(
        "get", "pods", "--namespace=e2e", f"--selector={selector}", "--output=json"
    )
    pods = json.loads(said.stdout)["items"]
    containers = [one for pod in pods for one in pod["status"]["containerStatuses"]]
    return bool(pods) and all(one["restartCount"] and one["ready"] for one in containers)


def nodes_of(cluster: Running, selector: str) -> set[str]:
    pods = cluster.kubectl(
        "get", "pods", "--namespace=e2e", f"--selector={selector}", "--output=json"
    )
    return {pod["spec"]["nodeName"] for pod in json.loads(pods.stdout)["items"]}


def ask_the_web_server(cluster: Running) -> None:
    """Two replicas behind a Service; a Job asks them by clusterIP, short name and full name."""
    namespace = "--namespace=e2e"
    cluster.lab.apply(cluster.name, "web.yaml")
    cluster.kubectl("rollout", "status", "deploy/web", namespace, f"--timeout={PODS_S}")
    cluster.lab.apply(cluster.name, "client.yaml")
    cluster.kubectl(
        "wait", "--for=condition=Complete", "job/client", namespace, f"--timeout={PODS_S}"
    )

    heard = cluster.log("job/client")
    service = cluster.kubectl(
        "get", "service", "web", namespace, "--output=jsonpath={.spec.clusterIP}"
    ).text
    for host in (service, "web", "web.e2e.svc.cluster.local"):
        assert f"answer {host}: hello from web-" in heard
