# SPDX-License-Identifier: Apache-2.0
"""Do the examples become Ready in virtual machines too? (`make e2e-vm`, not `make test`: slow.)"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cloudinit.rules import load_cluster
from kubekiln.operations.wait import ready_names
from kubekiln.process import run
from tests.e2e.conftest import Lab, free_port

# Five emulated machines on two cores; with KVM minutes.
READY_S = 3000.0
PODS_S = "900s"
PATIENT = {"heartbeat_ms": 500, "election_ms": 5000}

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.timeout(READY_S + 1800)]


@pytest.mark.parametrize("name", ["single-master", "ha-stacked"])
def test_all_nodes_get_ready_and_pods_reach_each_other(lab: Lab, image: Path, name: str) -> None:
    assert image.exists()
    lab.set_host_port(name, free_port())
    # Members that share two cores, emulated, answer each other in seconds rather than in 100 ms.
    lab.edit_cluster(name, lambda config: config.update(etcd=PATIENT))
    up = lab.command("up", name, "--target", "qemu", "--timeout", str(READY_S))
    try:
        said = run(replace(up, timeout_s=READY_S + 600))
        print(said.stderr.decode(errors="replace"), said.text)

        nodes = json.loads(lab.kubectl(name, "get", "nodes", "--output=json").stdout)
        wanted = [node.name for node in load_cluster(name, lab.project).nodes]
        assert ready_names(nodes) == set(wanted)
        lab.kubectl(
            name, "rollout", "status", "deploy/coredns", "-n=kube-system", f"--timeout={PODS_S}"
        )
        lab.apply(name, "web.yaml")
        lab.kubectl(name, "rollout", "status", "deploy/web", "-n=e2e", f"--timeout={PODS_S}")
        lab.apply(name, "client.yaml")
        lab.kubectl(
            name, "wait", "--for=condition=Complete", "job/client", "-n=e2e", f"--timeout={PODS_S}"
        )
    finally:
        lab.kubekiln("down", name)
