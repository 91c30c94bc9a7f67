# SPDX-License-Identifier: Apache-2.0
"""Does a virtual machine of a cloud's take its role from that cloud's metadata service?

Its firmware says which cloud it is in, and it has the form of user-data that is attached there. The
clouds themselves are ours (tests/support/clouds.py). `make e2e-vm`: each is an emulated boot.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from kubekiln.operations.prepare import bake_image, load, render
from kubekiln.operations.up import plan_machines
from pipeline.targets.console import read_console
from tests.e2e.conftest import BOOT_S, Lab
from tests.support.cloudmachine import cloud_machine
from tests.support.clouds import CLOUDS, Cloud
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(BOOT_S + 300),
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own needs root"),
]  # fmt: skip


def add_image(lab: Lab, name: str, cloud: Cloud) -> None:
    """Declare an image that looks at one datasource, as docs/images.md says."""
    images = lab.project.configs_dir / "images"
    config = yaml.safe_load((images / f"{cloud.image}.yaml").read_text())
    config["datasources"] = [cloud.only_source]
    (images / f"{name}.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("cloud", CLOUDS, ids=lambda cloud: cloud.datasource)
def test_a_machine_takes_its_role_from_the_metadata_service(
    lab: Lab, tmp_path: Path, cloud: Cloud
) -> None:
    name = f"in-{cloud.datasource}"
    lab.add_cluster(name)
    if cloud.only_source:
        add_image(lab, name, cloud)
    where = {
        "datasource": cloud.datasource,
        "image": name if cloud.only_source else cloud.image,
    }
    lab.edit_cluster(name, lambda config: config.update(where))
    lab.edit_cluster(name, lambda config: config["network"].update(addressing=cloud.addressing))
    plan = load(lab.project, name)
    image = bake_image(lab.project, plan)
    (machine,) = plan_machines(lab.project, plan.cluster, render(lab.project, plan), image)

    with cloud_machine(cloud, machine, tmp_path) as (process, asked):
        until(
            lambda: process.poll() is not None or read_console(machine.console_log).complete,
            what=f"a complete boot in {cloud.datasource}", timeout_s=BOOT_S, every_s=1,
        )  # fmt: skip
        assert process.poll() is None, "QEMU runs"
        report = read_console(machine.console_log)

    assert report.complete
    assert not report.refusals
    requests = asked.read_text()
    assert f'{cloud.asked} HTTP/1.1" 200' in requests, requests
