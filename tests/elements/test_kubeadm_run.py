# SPDX-License-Identifier: Apache-2.0
"""Does each machine make or join a cluster by kubeadm at the right moment, and once?"""

from __future__ import annotations

import shlex
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubekiln.process import Command, Result, run
from pipeline.targets.console import read_console
from tests.support.node_runtime import PROGRAMS_DIR, ROOT

from kubekiln_node.etcd_membership import ASK_FOR_S  # isort: skip

pytestmark = pytest.mark.processes("kubeadm-run")

# What the user-data calls the balancer's address, in the one file that the unit reads it from.
TEMPLATE = ROOT / "cloudinit/templates/etc/haproxy/balancer.env.j2"
BALANCERS_URL = TEMPLATE.read_text().partition("=")[0]
MASTER_JOIN = "kind: JoinConfiguration\ncontrolPlane:\n  x: y\n"
WORKER_JOIN = "kind: JoinConfiguration\n"
FIRST_MASTER = {"kubeadm/init.yaml": "", "kubeadm/join.yaml": MASTER_JOIN}
ANOTHER_MASTER = {"kubeadm/join.yaml": MASTER_JOIN}
WORKER = {"kubeadm/join.yaml": WORKER_JOIN}
SINGLE = {"kubeadm/init.yaml": ""}
# Nobody has a connection with all; the kernel says so at once.
UNREACHABLE = "255.255.255.255:6443"
REFUSES = "127.0.0.1:1"


@dataclass(frozen=True)
class Machine:
    """The program with a fake kubeadm and a fake balancer, before masters of this host."""

    root: Path

    def put(self, files: Mapping[str, str]) -> Machine:
        for path, text in files.items():
            (self.root / "etc" / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / "etc" / path).write_text(text)
        return self

    def lead_to(self, *masters: str) -> Machine:
        """Let the balancer's own settings name masters, beside one that nobody is."""
        path = self.root / "haproxy.cfg"
        lines = ["    default-server check check-ssl", "    server own 127.0.0.1:1 on-marked-up x"]
        path.write_text("\n".join([*lines, *(f"    server m {m} backup" for m in masters), ""]))
        return self

    def come_up(self, master: str) -> Machine:
        """Let one that can't be reached be another one as soon as somebody waits."""
        programs = self.root / "bin"
        programs.mkdir(exist_ok=True)
        program = programs / "sleep"
        program.write_text(
            f"#!/bin/sh\necho waited >>{self.root}/waits\n"
            f"exec sed -i 's/{UNREACHABLE}/{master}/' {self.root}/haproxy.cfg\n"
        )
        program.chmod(0o755)
        return self

    def run(
        self,
        *,
        served: bool = False,
        fails: bool = False,
        says: str = "",
        ignored: str = "",
        ask_for_s: int | None = None,
    ) -> Result:
        programs = self.root / "bin"
        programs.mkdir(exist_ok=True)
        shutil.copy(PROGRAMS_DIR / "kubeadm-run", programs)
        log = self.root / "log"
        log.unlink(missing_ok=True)
        for name, status in {"kubeadm": int(fails), "wait-for-balancer": int(not served)}.items():
            program = programs / name
            words = f"printf %s {shlex.quote(says)} >&2" if name == "kubeadm" else ":"
            program.write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\n{words}\nexit {status}\n')
            program.chmod(0o755)
        env = {"PATH": f"{programs}:/usr/bin:/bin", BALANCERS_URL: "https://127.0.0.1:7443/readyz"}
        if ask_for_s is not None:
            env["ASK_FOR_S"] = str(ask_for_s)
        if ignored:
            env["IGNORE_PREFLIGHT_ERRORS"] = ignored
        places = [self.root / name for name in ("etc", "state", "haproxy.cfg", "console")]
        return run(Command([programs / "kubeadm-run", *places], env=env), check=False)

    def verbs(self) -> list[str]:
        log = self.root / "log"
        lines = log.read_text().splitlines() if log.is_file() else []
        return [line.split()[1] for line in lines if line.startswith("kubeadm ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path).lead_to()


@contextmanager
def living_master(address: str = "127.0.0.1") -> Iterator[str]:
    """Listen, and answer nothing: as an API server that is busy, or one that is ill."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as master:
        master.bind((address, 0))
        master.listen()
        named = f"[{address}]" if ":" in address else address
        yield f"{named}:{master.getsockname()[1]}"


@pytest.mark.parametrize(
    ("files", "served", "verbs"),
    [
        pytest.param(SINGLE, False, ["init"], id="a single machine"),
        pytest.param(FIRST_MASTER, False, ["init"], id="the first master where there is nobody"),
        pytest.param(ANOTHER_MASTER, True, ["join"], id="another master"),
        pytest.param(WORKER, True, ["join"], id="a worker"),
    ],
)
def test_it_does_once_what_the_machine_is_for(
    machine: Machine, files: Mapping[str, str], served: bool, verbs: list[str]
) -> None:
    machine.put(files)

    assert machine.run(served=served).returncode == 0
    assert machine.verbs() == verbs
    assert machine.run(served=served).returncode == 0
    assert machine.verbs() == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_first_master_that_lost_its_disk_makes_no_second_cluster(
    machine: Machine, address: str
) -> None:
    """Whatever the other one would answer: the balancer leads to none that isn't ready."""
    with living_master(address) as master:
        machine.put(FIRST_MASTER).lead_to(master)

        waiting = machine.run(served=False)
        assert (waiting.returncode, machine.verbs()) == (1, [])

        assert machine.run(served=True).returncode == 0
    assert machine.verbs() == ["join"]


def test_one_whose_network_comes_up_late_makes_no_second_cluster(machine: Machine) -> None:
    with living_master() as master:
        machine.put(FIRST_MASTER).lead_to(UNREACHABLE, UNREACHABLE).come_up(master)

        assert machine.run(served=True).returncode == 0
    assert machine.verbs() == ["join"]
    assert (machine.root / "waits").read_text() == "waited\n"


def test_a_master_that_listens_is_a_cluster_though_the_others_refuse(machine: Machine) -> None:
    with living_master() as master:
        machine.put(FIRST_MASTER).lead_to(REFUSES, REFUSES, master)

        assert machine.run(served=True).returncode == 0
    assert machine.verbs() == ["join"]


@pytest.mark.parametrize(
    ("others", "waits"),
    [
        pytest.param([REFUSES, REFUSES], 0, id="all refuse"),
        pytest.param([REFUSES, UNREACHABLE], 0, id="a majority refuses"),
        pytest.param([UNREACHABLE, UNREACHABLE], 1, id="they come up and refuse"),
        pytest.param([UNREACHABLE], 1, id="half is no majority"),
    ],
)
def test_the_first_master_makes_the_cluster_once_a_majority_is_there_without_one(
    machine: Machine, others: list[str], waits: int
) -> None:
    machine.put(FIRST_MASTER).lead_to(*others).come_up(REFUSES)

    assert machine.run().returncode == 0
    assert machine.verbs() == ["init"]
    waited = machine.root / "waits"
    assert (waited.read_text() if waited.exists() else "") == "waited\n" * waits


def test_the_first_boot_of_all_waits_for_the_other_masters_no_longer_than_etcd_does(
    machine: Machine,
) -> None:
    machine.put(FIRST_MASTER).lead_to(UNREACHABLE, UNREACHABLE)

    assert machine.run(ask_for_s=0).returncode == 0
    assert machine.verbs() == ["init"]
    assert f"${{ASK_FOR_S:-{ASK_FOR_S:.0f}}}" in (PROGRAMS_DIR / "kubeadm-run").read_text()


@pytest.mark.parametrize("files", [ANOTHER_MASTER, WORKER], ids=["a master", "a worker"])
def test_who_joins_waits_until_there_is_a_master(
    machine: Machine, files: Mapping[str, str]
) -> None:
    machine.put(files)

    assert machine.run(served=False).returncode != 0
    assert machine.verbs() == []


def test_an_init_that_was_cut_off_is_taken_up_again_though_the_api_answers(
    machine: Machine,
) -> None:
    machine.put(FIRST_MASTER)

    assert machine.run(fails=True).returncode != 0
    with living_master() as master:
        assert machine.lead_to(master).run(served=True).returncode == 0
    assert machine.verbs() == ["init"]


def test_a_join_that_failed_is_tried_again(machine: Machine) -> None:
    machine.put(WORKER)

    assert machine.run(served=True, fails=True).returncode != 0
    assert machine.run(served=True).returncode == 0
    assert machine.verbs() == ["join"]


@pytest.mark.parametrize(
    ("files", "left", "verbs"),
    [
        pytest.param(WORKER, ["kubelet.conf"], [], id="a worker with its identity"),
        pytest.param(ANOTHER_MASTER, ["kubelet.conf"], ["join"], id="a master without etcd"),
        pytest.param(
            ANOTHER_MASTER, ["kubelet.conf", "manifests/etcd.yaml"], [], id="a whole master"
        ),
    ],
)
def test_a_machine_that_is_a_node_does_not_join_once_more(
    machine: Machine, files: Mapping[str, str], left: list[str], verbs: list[str]
) -> None:
    machine.put(files).put(dict.fromkeys(left, ""))

    assert machine.run(served=True).returncode == 0
    assert machine.verbs() == verbs


def test_what_a_container_cannot_show_is_left_out_of_the_checks(machine: Machine) -> None:
    machine.put(SINGLE)

    machine.run(ignored="SystemVerification")

    assert "--ignore-preflight-errors=SystemVerification" in (machine.root / "log").read_text()


def test_what_kubeadms_checks_find_is_on_the_console_once_a_boot(machine: Machine) -> None:
    machine.put(SINGLE)
    console = machine.root / "console"
    words = (
        "[preflight] Some fatal errors occurred:\n\t[ERROR Mem]: the system RAM (900 MB) is less\n"
    )
    console.write_text("")

    first = machine.run(fails=True, says=words)

    assert first.returncode == 1
    assert "[ERROR Mem]" in first.stderr.decode(), "the journal has it all"
    (failing,) = read_console(console).failing
    said = "kubekiln-kubeadm.service is failed: Mem: the system RAM (900 MB) is less;"
    assert failing == said
    console.write_text("")
    machine.run(fails=True, says=words)
    machine.run(fails=True, says="timed out waiting for the condition\n")
    assert console.read_text() == ""


def test_a_console_that_is_lost_changes_nothing(machine: Machine) -> None:
    machine.put(SINGLE)
    (machine.root / "console").mkdir()

    said = machine.run(fails=True, says="\t[ERROR Mem]: the system RAM (900 MB) is less\n")

    assert said.returncode == 1
    assert "[ERROR Mem]" in said.stderr.decode()
