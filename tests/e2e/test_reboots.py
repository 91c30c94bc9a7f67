# SPDX-License-Identifier: Apache-2.0
"""Is a node the same after twenty boots: shut down and cut off in turn?

`make e2e-vm`, not `make test`: each boot is seconds, all of them minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import BOOT_S, ROOT, Lab
from tests.support.fleet import Fleet, fleet
from tests.support.pods import WEB_PODS, web_restarts
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.vm,
    pytest.mark.timeout(2 * BOOT_S),
]  # fmt: skip

NAME, NODE = "again", "again-1"
BOOTS = 20
# What a boot must leave as it was: who the machine is, what it holds, what the kernel was told.
STATE = """\
set -eu
cat /etc/machine-id /etc/kubernetes/pki/*.crt | sha256sum
find /etc/kubernetes /etc/etcd /etc/systemd/system -type f -exec sha256sum {} + | sort | sha256sum
sysctl net.ipv4.ip_forward vm.overcommit_memory kernel.panic
wc -l < /proc/swaps
"""


def test_every_one_of_twenty_boots_gets_ready_with_its_pods(lab: Lab, image: Path) -> None:
    assert image.exists()
    lab.add_cluster(NAME)
    with fleet(lab.project, NAME) as node:
        node.boot([NODE])
        node.wait_ready()
        apply = ("apply", "--server-side", "--filename", str(ROOT / "tests/e2e/manifests/web.yaml"))
        node.kubectl(*apply)
        node.kubectl("rollout", "status", "deploy/web", "-n=e2e", "--timeout=300s")
        before = state(node)

        for boot in range(1, BOOTS + 1):
            restarts = sum(web_restarts(node.kubectl))
            node.target.stop(node.machines[NODE], graceful=boot % 2 == 1)
            node.boot([NODE])

            until(lambda: node.is_complete(NODE), what=f"boot {boot}", timeout_s=BOOT_S)
            until(
                lambda restarts=restarts: sum(web_restarts(node.kubectl)) >= restarts + WEB_PODS,
                what=f"both pods after boot {boot}", timeout_s=BOOT_S, every_s=0.5,
            )  # fmt: skip
            until(lambda: is_settled(node), what=f"no job left after boot {boot}", timeout_s=60)
            assert state(node) == before, f"boot {boot}"


def state(node: Fleet) -> str:
    return node.inside(NODE, "/bin/sh", "-c", STATE).text


def is_settled(node: Fleet) -> bool:
    said = node.inside(NODE, "/usr/bin/systemctl", "is-system-running", check=False)
    assert said.text != "degraded", node.inside(NODE, "/usr/bin/systemctl", "--failed").text
    return said.text == "running"
