# SPDX-License-Identifier: Apache-2.0
"""Do the virtual machines of a cluster come and go with their network, and leave nothing behind?"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from kubekiln.process import spawn
from pipeline.targets.processes import find_processes
from tests.e2e.conftest import Lab
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.qemu, pytest.mark.alone, pytest.mark.timeout(900)]

NAME = "cutvm"
START_S = 300.0


def test_an_interrupted_up_leaves_neither_machines_nor_their_network(lab: Lab, image: Path) -> None:
    assert image.exists()
    nodes = lab.add_cluster(NAME, workers=1)
    directory = lab.project.machines_dir / NAME
    up = spawn(lab.command("up", NAME, "--target", "qemu"))
    until(lambda: running(directory, nodes) >= {"switch", "router", *nodes},
          what="both machines and their network", timeout_s=START_S)  # fmt: skip

    os.kill(up.pid, signal.SIGINT)

    assert up.wait(60) == 130
    assert running(directory, nodes) == set()
    assert not directory.exists()


def running(directory: Path, nodes: list[str]) -> set[str]:
    """Name what runs of a cluster."""
    found = {
        "switch": find_processes("switch.py", str(directory / "switch")),
        "router": find_processes("qemu-system-x86_64", str(directory / "router.pid")),
    }
    for name in nodes:
        pidfile = str(directory / name / "pid")
        found[name] = find_processes("qemu-system-x86_64", pidfile)
    return {name for name, pids in found.items() if pids}
