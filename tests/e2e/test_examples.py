# SPDX-License-Identifier: Apache-2.0
"""Does each example of several machines become Ready? (ha-stacked has tests of its own.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import BOOT_S, Lab, free_port
from tests.support.fleet import fleet
from tests.support.network import unanswered
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "backend"),
    [("single-master", "host-gw"), ("ha-external", "vxlan")],
)
def test_all_its_machines_come_up(lab: Lab, image: Path, name: str, backend: str) -> None:
    assert image.exists()
    lab.set_host_port(name, free_port())
    lab.edit_cluster(name, lambda config: config["network"].update(flannel={"backend": backend}))
    with fleet(lab.project, name) as machines:
        machines.boot(reversed(machines.machines))

        machines.wait_ready()

        assert machines.ready_nodes() == set(machines.nodes)
        until(
            lambda: all(machines.is_complete(machine) for machine in machines.machines),
            what="every machine complete",
            timeout_s=120,
        )
        machines.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=120s")
        assert unanswered(machines) == {}
