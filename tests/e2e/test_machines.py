# SPDX-License-Identifier: Apache-2.0
"""Do machines keep to themselves: identity, a closed gate on bad user-data, no residue?"""

from __future__ import annotations

import os
import signal
import socket
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kubekiln.errors import KubekilnError
from kubekiln.operations.prepare import bake_image, load, render
from kubekiln.operations.up import plan_machines
from kubekiln.operations.wait import Boot
from kubekiln.process import spawn
from pipeline.targets.console import read_console
from pipeline.targets.machine import Machine
from pipeline.targets.nspawn import SCRIPT, NspawnTarget
from pipeline.targets.processes import find_processes
from tests.e2e.conftest import Lab
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.root, pytest.mark.nspawn, pytest.mark.timeout(900),
]  # fmt: skip

BOOT_S = 300.0


@pytest.fixture
def machine(lab: Lab, image: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine that isn't booted yet, of a cluster of its own; gone afterwards."""
    name = f"m{zlib.crc32(request.node.name.encode()):08x}"
    lab.add_cluster(name)
    plan = load(lab.project, name)
    rendered = render(lab.project, plan)
    made = plan_machines(lab.project, plan.cluster, rendered, bake_image(lab.project, plan))[0]
    yield made
    NspawnTarget().destroy(made)


def test_two_machines_of_one_image_have_their_own_identity(machine: Machine, lab: Lab) -> None:
    target = NspawnTarget()
    # Of the same seed, too (in a network of its own): what differs is the machines' own doing.
    own_place = machine.run_dir.parent.with_name("twin") / "twin-1"
    twin = replace(machine, run_dir=own_place, api_host_port=None)
    try:
        for one in (machine, twin):
            target.boot(one)
        for file in ("etc/machine-id", "etc/ssh/ssh_host_ed25519_key.pub"):
            paths = [one.run_dir / "upper" / file for one in (machine, twin)]
            until(
                lambda paths=paths: all(path.exists() and path.read_bytes() for path in paths),
                what=f"{file} on both",
                timeout_s=BOOT_S,
            )
            first, second = (path.read_bytes() for path in paths)
            assert first != second, f"{file} is the same on both"
    finally:
        target.destroy(twin)


def test_changed_user_data_keeps_the_gate_closed_and_says_why(
    machine: Machine, tmp_path: Path
) -> None:
    corrupt, path = with_one_changed_file(machine, tmp_path)

    assert path in refusal_of(corrupt)


@pytest.mark.parametrize("how", ["cut off", "no YAML"])
def test_user_data_that_cannot_be_read_keeps_the_gate_closed_and_says_why(
    machine: Machine, tmp_path: Path, how: str
) -> None:
    whole = (machine.seed_dir / "user-data").read_bytes()
    content = {
        "cut off": whole[: len(whole) // 2],
        "no YAML": b"#cloud-config\nwrite_files: [{path: /etc/x\n\t- :::\n",
    }

    said = refusal_of(with_seed(machine, tmp_path, content[how]))

    assert "cloud-init got no usable user-data" in said


def refusal_of(machine: Machine) -> str:
    """Boot a machine whose gate must stay closed; give what is said of it."""
    target = NspawnTarget()
    target.boot(machine)

    with pytest.raises(KubekilnError) as refused:
        watch = Boot(target, [machine], frozenset, frozenset({machine.name}))
        watch.wait(timeout_s=BOOT_S, note=lambda _text: None)

    said = str(refused.value)
    assert "refuses its role" in said
    assert not read_console(machine.console_log).has("etcd")
    assert not etcd_runs_in(machine)
    return said


def test_an_interrupted_up_leaves_nothing_running_or_mounted(lab: Lab, image: Path) -> None:
    lab.add_cluster("cut")
    run_dir = lab.project.machines_dir / "cut" / "cut-1"
    up = spawn(lab.command("up", "cut", "--target", "nspawn"))
    until(
        lambda: read_console(run_dir / "console.log").phases,
        what="a booting machine",
        timeout_s=BOOT_S,
    )

    os.kill(up.pid, signal.SIGINT)

    assert up.wait(60) == 130
    assert nothing_is_left_of(run_dir)


def test_down_leaves_nothing_running_or_mounted(machine: Machine) -> None:
    target = NspawnTarget()
    target.boot(machine)
    assert target.status(machine).state == "running"

    target.destroy(machine)

    assert target.status(machine).state == "absent"
    assert nothing_is_left_of(machine.run_dir)


def test_a_machine_that_was_stopped_boots_again_with_its_disk(machine: Machine) -> None:
    target = NspawnTarget()
    for _ in range(2):
        target.boot(machine)
        until(
            lambda: read_console(machine.console_log).has("activated"),
            what="an open gate",
            timeout_s=BOOT_S,
        )
        target.stop(machine)
        assert target.status(machine).state == "stopped"

    identity = machine.run_dir / "upper/etc/machine-id"
    assert identity.read_text().strip() not in ("", "uninitialized")


def test_a_port_that_is_taken_is_said_before_anything_starts(lab: Lab, image: Path) -> None:
    lab.add_cluster("taken")
    config = yaml.safe_load((lab.project.configs_dir / "clusters/taken.yaml").read_text())
    with socket.socket() as other:
        other.bind(("127.0.0.1", config["api"]["host_port"]))
        other.listen()

        refused = lab.kubekiln("up", "taken", "--target", "nspawn", check=False)

    assert refused.returncode == 1
    assert b"is taken" in refused.stderr
    assert nothing_is_left_of(lab.project.machines_dir / "taken" / "taken-1")


def with_one_changed_file(machine: Machine, scratch: Path) -> tuple[Machine, str]:
    """Change one file that the user-data writes; its manifest stays what it was."""
    data = yaml.safe_load((machine.seed_dir / "user-data").read_text())
    victim = next(f for f in data["write_files"] if f["path"].endswith("etcd.service"))
    victim.pop("encoding", None)
    victim["content"] = "[Service]\nExecStart=/bin/true\n"
    text = "#cloud-config\n" + yaml.safe_dump(data, sort_keys=False)
    return with_seed(machine, scratch, text.encode()), str(victim["path"])


def with_seed(machine: Machine, scratch: Path, user_data: bytes) -> Machine:
    """Give a machine other user-data; all else of its seed stays."""
    seed = scratch / "seed"
    seed.mkdir()
    for name in ("meta-data", "network-config"):
        (seed / name).write_bytes((machine.seed_dir / name).read_bytes())
    (seed / "user-data").write_bytes(user_data)
    return replace(machine, seed_dir=seed)


def etcd_runs_in(machine: Machine) -> bool:
    from pipeline.targets.processes import descendants, program_of

    keepers = find_processes(SCRIPT.name, str(machine.run_dir))
    return any(program_of(pid) == "etcd" for pid in descendants(keepers[0]))


def nothing_is_left_of(run_dir: Path) -> bool:
    mounted = str(run_dir) in Path("/proc/mounts").read_text()
    network = find_processes("nspawn-network.sh", str(run_dir.parent))
    running = find_processes(SCRIPT.name, str(run_dir))
    return not (mounted or network or running or run_dir.exists())
