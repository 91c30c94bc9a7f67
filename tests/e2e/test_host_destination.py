# SPDX-License-Identifier: Apache-2.0
"""Do the verbs for platforms bring a cluster up on this host, once however often they are said?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kubekiln.operations.wait import ready_names
from kubekiln.process import Result
from pipeline.targets.registry import find_target
from tests.e2e.conftest import BOOT_S, Lab
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

NAME, NODE, TARGET = "verbs", "verbs-1", "nspawn"


def test_upload_boot_status_console_destroy(lab: Lab, image: Path) -> None:
    lab.add_cluster(NAME)

    first, second = (kubekiln(lab, "upload") for _ in range(2))
    assert first.text == second.text == str(image)
    assert kubekiln(lab, "boot").text == f"{NODE} {NAME}-{NODE} running"
    until(lambda: is_complete(lab), what="a complete boot", timeout_s=BOOT_S)
    until(lambda: ready(lab) == {NODE}, what="a node that is Ready", timeout_s=BOOT_S)
    booted = leader(lab)
    assert kubekiln(lab, "boot").text == f"{NODE} {NAME}-{NODE} running"

    assert leader(lab) == booted, "the one that runs is left alone"
    assert booted
    shown = kubekiln(lab, "status", NAME, of=()).text
    assert all(word in shown for word in (NODE, "running", "complete")), shown
    assert kubekiln(lab, "console", NODE).text.count("KUBEKILN complete") == 1

    machine = lab.machine(NAME, NODE)
    assert kubekiln(lab, "destroy").text == f"{NODE} is gone"
    assert kubekiln(lab, "destroy").text == f"no machines of {NAME}"
    assert not machine.run_dir.exists()
    assert find_target(TARGET).status(machine).state == "absent"
    assert image.exists()


def kubekiln(lab: Lab, verb: str, *words: str, of: tuple[str, ...] = ("--cluster", NAME)) -> Result:
    return lab.kubekiln(verb, *words, "--target", TARGET, *of)


def is_complete(lab: Lab) -> bool:
    return "KUBEKILN complete" in kubekiln(lab, "console", NODE).text


def leader(lab: Lab) -> int | None:
    """Give the process that is the machine, on this host."""
    return find_target(TARGET).status(lab.machine(NAME, NODE)).pid


def ready(lab: Lab) -> frozenset[str]:
    said = lab.kubectl(NAME, "get", "nodes", "--output=json", check=False)
    return ready_names(json.loads(said.stdout)) if said.returncode == 0 else frozenset()
