# SPDX-License-Identifier: Apache-2.0
"""Does a cluster get Ready as a machine of a libvirt daemon, from the image uploaded to it?

From user-data as it is, and from one that is encrypted, with the key on a CD in another pool.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubekiln.operations.wait import ready_names
from kubekiln.process import Result, run
from tests.e2e.conftest import BOOT_S, ROOT, Lab
from tests.platforms.rigs.libvirt import LibvirtRig, provide_binding
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.vm, pytest.mark.qemu, pytest.mark.timeout(2 * BOOT_S)]

NAME = "lab-libvirt"
NODE = f"{NAME}-1"


@pytest.fixture(scope="module")
def daemon() -> Iterator[LibvirtRig]:
    """A daemon of our own, in session mode."""
    with LibvirtRig() as rig:
        yield rig


@pytest.mark.parametrize("protect", ["none", "age"])
def test_upload_boot_status_console_destroy(
    lab: Lab, image: Path, daemon: LibvirtRig, protect: str
) -> None:
    lab.add_cluster(NAME)
    lab.edit_cluster(NAME, lambda config: write_target(lab, daemon, config))
    lab.edit_cluster(NAME, lambda config: config.update(userdata={"protect": protect}))

    first = kubekiln(lab, "upload").text
    assert kubekiln(lab, "upload").text == first
    uploaded = daemon.leftovers()
    kubekiln(lab, "boot")

    cds = [daemon.pool_dir / f"kubekiln_{NAME}_{NODE}_seed.iso"]
    if protect == "age":
        assert b"PRIVATE KEY" not in cds[0].read_bytes()
        cds.append(daemon.keys_dir / f"kubekiln_{NAME}_{NODE}_key.iso")
        assert cds[1].exists()
    until(lambda: is_complete(daemon), what="a complete boot", timeout_s=BOOT_S)
    until(lambda: ready(lab) == {NODE}, what="a node that is Ready", timeout_s=BOOT_S)
    assert trays(daemon) == ["open" for _ in cds], "it ejects what it has read"
    assert "complete" in kubekiln(lab, "status", NAME, of=()).text
    assert "KUBEKILN complete" in kubekiln(lab, "console", NODE).text

    assert kubekiln(lab, "destroy").text == f"{NODE} is gone"
    assert daemon.leftovers() == uploaded, "the image stays, and nothing else"
    assert kubekiln(lab, "destroy").text == f"no machines of {NAME}"
    assert image.exists()


def trays(daemon: LibvirtRig) -> list[str | None]:
    drives = daemon.domain(f"{NAME}-{NODE}").findall("devices/disk[@device='cdrom']/target")
    return [drive.get("tray") for drive in drives]


def write_target(lab: Lab, daemon: LibvirtRig, config: dict[str, Any]) -> None:
    """Describe the daemon as a user would, with a way to the cluster's API."""
    way = {"node": NODE, "host_port": config["api"]["host_port"]}
    target = {
        "type": "libvirt", "uri": daemon.uri(), "pool": "pool", "key_pool": "keys",
        "cache": "unsafe",
        "networks": [{"user": config["network"]["node_cidr"], "forwards": [way]}],
    }  # fmt: skip
    path = lab.project.configs_dir / "targets" / "daemon.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(target))


def kubekiln(lab: Lab, verb: str, *words: str, of: tuple[str, ...] = ("--cluster", NAME)) -> Result:
    command = lab.command(verb, *words, "--target", "daemon", *of)
    path = os.pathsep.join([str(ROOT), str(provide_binding())])
    return run(replace(command, env={**command.env, "PYTHONPATH": path}))


def is_complete(daemon: LibvirtRig) -> bool:
    # Not through the daemon each time: it has an emulated machine to feed.
    console = daemon.pool_dir / f"kubekiln_{NAME}_{NODE}_console.log"
    return b"KUBEKILN complete" in console.read_bytes()


def ready(lab: Lab) -> frozenset[str]:
    said = lab.kubectl(NAME, "get", "nodes", "--output=json", check=False)
    return ready_names(json.loads(said.stdout)) if said.returncode == 0 else frozenset()
