# SPDX-License-Identifier: Apache-2.0
"""Does a virtual machine of a cloud's take its role from what that cloud says of it?

Its firmware says which cloud it is in, and it has the form of user-data that is attached there. The
clouds themselves are ours (tests/support/clouds.py). `make e2e-vm`: each is an emulated boot.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from kubekiln.operations.prepare import bake_image, load, render
from kubekiln.operations.up import plan_machines
from pipeline.targets.console import read_console
from pipeline.targets.machine import Machine
from tests.e2e.conftest import BOOT_S, Lab
from tests.support.cloudmachine import cloud_machine
from tests.support.clouds import CLOUDS, Cloud
from tests.support.guestdisk import ROOT_AT, copy_out
from tests.support.waiting import until

ELEMENTS = Path(__file__).parent / "elements"
# Azure's has it in base64, in a document.
USER_DATA = (b"PRIVATE KEY", b"CustomData", b"#cloud-config\n")

pytestmark = [
    pytest.mark.e2e, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(BOOT_S + 300),
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own needs root"),
]  # fmt: skip


def add_image(lab: Lab, name: str, cloud: Cloud) -> None:
    """Declare an image like the cloud's, with what is its own, as docs/images.md says."""
    images = lab.project.configs_dir / "images"
    config = yaml.safe_load((images / f"{cloud.image}.yaml").read_text())
    if cloud.only_source:
        config["datasources"] = [cloud.only_source]
    if cloud.element:
        config["elements"].append(cloud.element)
        shutil.copytree(
            ELEMENTS / cloud.element, lab.project.elements_dir / cloud.element, dirs_exist_ok=True
        )
    (images / f"{name}.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.datasource)
def test_a_machine_takes_its_role_from_its_cloud(lab: Lab, tmp_path: Path, cloud: Cloud) -> None:
    name = f"in-{cloud.datasource}"
    lab.add_cluster(name)
    has_own_image = bool(cloud.only_source or cloud.element)
    if has_own_image:
        add_image(lab, name, cloud)
    where = {"datasource": cloud.datasource, "image": name if has_own_image else cloud.image}
    lab.edit_cluster(name, lambda config: config.update(where))
    lab.edit_cluster(name, lambda config: config["network"].update(addressing=cloud.addressing))
    plan = load(lab.project, name)
    image = bake_image(lab.project, plan)
    (machine,) = plan_machines(lab.project, plan.cluster, render(lab.project, plan), image)

    with cloud_machine(cloud, machine, tmp_path) as (process, asked):

        def is_over() -> bool:
            report = read_console(machine.console_log)
            return process.poll() is not None or report.complete or bool(report.refusals)

        until(is_over, what=f"a boot in {cloud.datasource}", timeout_s=BOOT_S, every_s=1)
        assert process.poll() is None, "QEMU runs"
        report = read_console(machine.console_log)

    assert not report.refusals
    assert report.complete
    requests = asked.read_text()
    assert cloud.asked in requests, requests
    assert left_by_cloud_init(machine, cloud, tmp_path) == []


def left_by_cloud_init(machine: Machine, cloud: Cloud, scratch: Path) -> list[Path]:
    """Name the files of cloud-init's on a machine's disk that hold user-data; the disk goes."""
    disk = machine.run_dir / "disk.qcow2"
    attached = [p.read_bytes() for p in machine.seed_dir.iterdir() if "user" in p.name]
    words = (*USER_DATA, *attached)
    directories = ["/var/lib/cloud", *filter(None, [cloud.kept_in])]
    found = []
    for copy in copy_out(disk, *directories, scratch=scratch, at=ROOT_AT):
        assert copy.is_dir(), f"cloud-init wrote nothing to {copy.name}"
        files = [path for path in copy.rglob("*") if path.is_file() and not path.is_symlink()]
        found += [path for path in files if any(word in path.read_bytes() for word in words)]
    disk.unlink()
    return found
