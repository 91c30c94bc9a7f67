# SPDX-License-Identifier: Apache-2.0
"""Does a `boot` that was killed go on where it was, and leave nothing that nobody knows of?"""

from __future__ import annotations

import signal
import sys
import textwrap
from pathlib import Path

import pytest

from kubekiln.operations.delivery import Delivery
from kubekiln.paths import Project
from kubekiln.process import Command, spawn
from pipeline.targets.file import FilePlatform, Settings
from pipeline.targets.platform import InstanceSpec, RemoteImage
from tests.platforms.conftest import make_spec
from tests.support.waiting import until

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(120)]

COUNT = 30
ROOT = Path(__file__).resolve().parents[2]
# Makes machines slowly, so that there is a middle to be killed in.
PROGRAM = """
    import sys, time
    from pathlib import Path
    from tests.platforms.test_crash import IMAGE, delivery, described
    root = Path(sys.argv[1])
    to = delivery(root)
    create = to.platform.create
    def slowly(spec, image):
        time.sleep(0.1)
        return create(spec, image)
    to.platform.create = slowly
    to.boot(described(root), IMAGE)
"""
IMAGE = RemoteImage("image", "image")


def delivery(root: Path) -> Delivery:
    platform = FilePlatform(Settings(type="file", directory=root / "delivered"))
    return Delivery("directory", platform, Project(root), 4)


def described(root: Path) -> list[InstanceSpec]:
    return [
        InstanceSpec(
            cluster="lab", node=f"lab-{i}", role="worker", seed_dir=root / "seed-0",
            seed_iso=root / "seed-0/seed.iso", payload="p1", macs=(), addresses=(), cpus=1,
            memory_mib=256, disk_gib=1,
        )
        for i in range(COUNT)
    ]  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_it_goes_on_where_it_was(tmp_path: Path, how: signal.Signals) -> None:
    make_spec(tmp_path, "seed-0")
    journal = tmp_path / "state/lab/target-directory.journal"
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    command = Command([sys.executable, program, tmp_path], env={"PYTHONPATH": str(ROOT)})
    child = spawn(command)
    until(lambda: lines(journal) >= COUNT // 2, what="half of them were begun", timeout_s=60)

    child.send_signal(how)
    child.wait(30)

    to = delivery(tmp_path)
    before = {instance.node for instance in to.instances("lab")}
    assert 0 < len(before) < COUNT
    to.boot(described(tmp_path), IMAGE)
    assert {instance.node for instance in to.instances("lab")} == {f"lab-{i}" for i in range(COUNT)}
    assert to.journal("lab").unfinished() == []
    to.destroy("lab")
    assert to.instances() == []


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
