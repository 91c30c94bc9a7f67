# SPDX-License-Identifier: Apache-2.0
"""Does each example of several machines become Ready? (ha-stacked has tests of its own.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import BOOT_S, Lab, free_port
from tests.support.fleet import fleet
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip


@pytest.mark.parametrize("name", ["single-master", "ha-external"])
def test_all_its_machines_come_up(lab: Lab, image: Path, name: str) -> None:
    assert image.exists()
    lab.set_host_port(name, free_port())
    with fleet(lab.project, name) as machines:
        machines.boot(reversed(machines.machines))

        machines.wait_ready()

        assert machines.ready_nodes() == set(machines.nodes)
        for machine in machines.machines:
            until(
                lambda machine=machine: machines.is_complete(machine),  # type: ignore[misc]
                what=f"{machine} complete",
                timeout_s=120,
            )
        machines.kubectl(
            "rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=120s"
        )  # fmt: skip
