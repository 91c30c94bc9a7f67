# SPDX-License-Identifier: Apache-2.0
"""Who loses when a node's disk fills up: the pod that fills it, or the database on it?

One node whose whole disk is small; the tests run in the order in which they stand here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kubekiln.process import Command, run
from tests.e2e.conftest import BOOT_S, ROOT, Lab
from tests.support.fleet import Fleet, fleet
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.in_order,
    pytest.mark.waits, pytest.mark.timeout(BOOT_S),
]  # fmt: skip

NAME, NODE = "small", "small-1"
MIB = 1 << 20
# What a node has written when it is Ready, what it keeps free, and some to fill.
DISK_MIB = 2200


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Have everything below a directory on a file system of its own."""
    directory.mkdir(parents=True)
    options = f"size={DISK_MIB}m,mode=0755"
    run(Command(["mount", "-t", "tmpfs", "-o", options, "small-disk", directory]))
    try:
        yield
    finally:
        run(Command(["umount", "--lazy", directory]))


@pytest.fixture(scope="module")
def node(lab: Lab, image: Path) -> Iterator[Fleet]:
    """A node that is Ready."""
    assert image.exists()
    lab.add_cluster(NAME)
    with fleet(lab.project, NAME) as made, small_disk(made.machines[NODE].run_dir):
        made.boot([NODE])
        made.wait_ready()
        yield made
        made.cut_off(NODE)


def test_a_pod_that_fills_the_disk_is_evicted_before_the_database_lacks_room(node: Fleet) -> None:
    disk = node.machines[NODE].run_dir
    reserved = node.plan.cluster.kubelet.reserved_disk_mib
    least = free_mib(disk)
    assert least > reserved, "the disk is too small to begin with"
    apply = ("apply", "--filename", str(ROOT / "tests/e2e/manifests/greedy.yaml"))
    # A pod that is nobody's is made once its namespace has a service account.
    until(lambda: node.kubectl(*apply, check=False).returncode == 0, what="a pod", timeout_s=120)

    def evicted() -> bool:
        nonlocal least
        least = min(least, free_mib(disk))
        return greedy(node).get("reason") == "Evicted"

    until(evicted, what="the pod is evicted", timeout_s=180)

    print(f"{least} MiB were free at least, {reserved} are reserved")
    assert least > reserved / 4
    assert conditions(node)["DiskPressure"] == "True"
    node.kubectl("create", "configmap", "written", "--from-literal=after=eviction")
    assert "NOSPACE" not in node.etcdctl(NODE, "alarm", "list")


def test_what_it_wrote_is_gone_and_the_images_are_all_there(node: Fleet, lab: Lab) -> None:
    facts = json.loads((lab.project.images_dir / "debian-13.json").read_text())
    baked = facts["container_images"]
    assert len(baked) > 1
    disk = node.machines[NODE].run_dir
    reserved = node.plan.cluster.kubelet.reserved_disk_mib

    until(lambda: free_mib(disk) > reserved, what="room again", timeout_s=120)

    words = ("/usr/local/bin/crictl", "images", "--output=json")
    images = json.loads(node.inside(NODE, *words).stdout)["images"]
    # What nobody uses and nobody pinned is collected: those of kubeadm, and CoreDNS' elsewhere.
    assert {one["repoTags"][0]: one["pinned"] for one in images} == dict.fromkeys(baked, True)


def free_mib(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize // MIB


def greedy(node: Fleet) -> dict[str, Any]:
    said = node.kubectl("get", "pod", "greedy", "-n=e2e", "--output=json")
    status: dict[str, Any] = json.loads(said.stdout)["status"]
    return status


def conditions(node: Fleet) -> dict[str, str]:
    said = json.loads(node.kubectl("get", "node", NODE, "--output=json").stdout)
    return {one["type"]: one["status"] for one in said["status"]["conditions"]}
