# SPDX-License-Identifier: Apache-2.0
"""What do the real boots share: one project, one baked image, a cluster on each target."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubekiln.paths import Project
from kubekiln.process import Command, Result, find_tool, run
from pipeline.targets.machine import Machine
from pipeline.targets.record import read_record
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# Decides what tests leave to chance: another one for each commit (Makefile), printed where it does.
SEED = int(os.environ.get("KUBEKILN_TEST_SEED", "20261123"))
# One boot under TCG with one CPU on a busy host; a KVM host needs a minute.
BOOT_S = 1500.0
VLAN = 120
# What machines beside the first have: emulated, a database needs little.
_OTHERS: dict[str, dict[str, int]] = {
    "worker": {"cpus": 2, "memory_mib": 2048},
    "etcd": {"cpus": 1, "memory_mib": 1024},
}
FURTHER_NETWORK = "10.91.0"
# How many machines the cluster of each target has for etcd alone.
DATABASES = {"nspawn": 0, "qemu": 1}


@dataclass(frozen=True)
class Lab:
    """A project made of this checkout's inputs, with outputs and state of its own."""

    root: Path

    @property
    def project(self) -> Project:
        return Project(self.root)

    def kubekiln(self, *arguments: str, check: bool = True) -> Result:
        """Run the command as a user does."""
        return run(self.command(*arguments), check=check)

    def command(self, *arguments: str) -> Command:
        env = {"PYTHONPATH": str(ROOT), "CI": "true"}
        return Command(
            [sys.executable, "-m", "kubekiln", *arguments], cwd=self.root, env=env, timeout_s=BOOT_S
        )

    def kubectl(self, cluster: str, *arguments: str, check: bool = True) -> Result:
        return self.kubekiln("kubectl", "--on", cluster, *arguments, check=check)

    def apply(self, cluster: str, manifest: str) -> None:
        """Apply a manifest of ours, which nobody judges.

        For that an emulated API server writes megabytes of schemas, for half a minute and more.
        """
        path = ROOT / "tests/e2e/manifests" / manifest
        words = ("apply", "--server-side", "--validate=ignore", "--filename", str(path))
        self.kubectl(cluster, *words)

    def add_cluster(self, name: str, *, workers: int = 0, databases: int = 0) -> list[str]:
        """Write the config of a cluster like `solo`, whose API has a free port of this host.

        With workers, or etcd on machines of its own, its first machine is a master. Gives the
        names of its machines.
        """
        config = yaml.safe_load((ROOT / "configs/clusters/solo.yaml").read_text())
        config["name"] = name
        first = config["nodes"][0]
        others = ["worker"] * workers + ["etcd"] * databases
        first |= {"name": f"{name}-1", "role": "master" if others else "single"}
        network = IPv4Network(config["network"]["node_cidr"])
        config["nodes"] += [
            {"name": f"{name}-{i + 2}", "role": role, "address": str(network[21 + i])}
            | _OTHERS[role]
            for i, role in enumerate(others)
        ]
        config["api"]["host_port"] = free_port()
        self.cluster_path(name).write_text(yaml.safe_dump(config, sort_keys=False))
        return [node["name"] for node in config["nodes"]]

    def set_host_port(self, name: str, port: int) -> None:
        """Let an example's API have another port of this host."""
        self.edit_cluster(name, lambda config: config["api"].update(host_port=port))

    def edit_cluster(self, name: str, edit: Callable[[dict[str, Any]], object]) -> None:
        """Change an example's configuration."""
        path = self.cluster_path(name)
        config = yaml.safe_load(path.read_text())
        edit(config)
        path.write_text(yaml.safe_dump(config, sort_keys=False))

    def cluster_path(self, name: str) -> Path:
        """Give the config of a cluster."""
        return self.project.configs_dir / "clusters" / f"{name}.yaml"

    def machine(self, cluster: str, name: str) -> Machine:
        """A machine that was made."""
        record = read_record(self.project.machines_dir / cluster / name)
        assert record is not None, f"{cluster} has no machine {name}"
        return record.machine


# Where tests share a cluster that they change one after another: the one that failed, by file.
_lost: dict[Path, str] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what failed in a file marked `in_order`; a second try (--reruns) may take that back."""
    report = yield
    if item.get_closest_marker("in_order") and call.when != "teardown":
        if report.failed:
            _lost.setdefault(item.path, item.name)
        elif _lost.get(item.path) == item.name and call.when == "call":
            del _lost[item.path]
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail at once what would wait minutes for a cluster that an earlier test lost."""
    lost = _lost.get(item.path)
    if lost not in (None, item.name):
        pytest.fail(
            f"not tried: {lost} failed and may have left the cluster as it is", pytrace=False
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The project, one for each process of pytest's.

    Its machines are gone when the session ends, its logs stay.
    """
    root = ROOT / "build" / "e2e" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    lab = Lab(root)
    if root.exists():
        lab.kubekiln("down", "--all", check=False)
        shutil.rmtree(root)
    root.mkdir(parents=True)
    for name in ("configs", "elements"):
        shutil.copytree(ROOT / name, root / name, symlinks=True)
    yield lab
    lab.kubekiln("down", "--all")


@pytest.fixture(scope="session")
def image(lab: Lab) -> Path:
    """The default image, baked once (from the cache, if nothing changed)."""
    lab.kubekiln("image", "bake")
    return (lab.project.images_dir / "debian-13.qcow2").resolve()


@dataclass(frozen=True)
class Running:
    """A cluster that `kubekiln up` brought up."""

    lab: Lab
    name: str
    target: str
    said: str
    machines: list[str]
    nodes: list[str]
    """The machines that run pods."""

    def kubectl(self, *arguments: str, check: bool = True) -> Result:
        return self.lab.kubectl(self.name, *arguments, check=check)

    def log(self, job: str) -> str:
        """Read what a Job said; an emulated kubelet may be too busy to tell at once."""
        said = [""]

        def ask() -> bool:
            result = self.kubectl("logs", job, "--namespace=e2e", check=False)
            said.append(result.text)
            return result.returncode == 0

        until(ask, what=f"the log of {job}", timeout_s=180, every_s=1)
        return said[-1]

    @property
    def last(self) -> Machine:
        """The machine that runs ordinary pods: the only one, or the worker."""
        return self.lab.machine(self.name, self.nodes[-1])


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("nspawn", marks=[pytest.mark.nspawn, pytest.mark.root]),
        pytest.param("qemu", marks=[pytest.mark.qemu, pytest.mark.alone]),
    ],
)
def cluster(
    request: pytest.FixtureRequest, lab: Lab, image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A cluster of one node on each target in turn.

    The virtual one has a machine of its own for etcd, with a disk for it; its network is tagged,
    its machines have a further card on another, the node's clock is late at first, and the
    user-data is encrypted.
    Of more emulated machines on two CPUs each takes a multiple of the time: `make e2e-vm`.
    """
    target = str(request.param)
    if target == "nspawn" and os.geteuid() != 0:
        pytest.skip("container machines need root")
    if target == "qemu" and not find_tool("qemu-system-x86_64"):
        pytest.skip("QEMU is not installed")
    name = f"lab-{target}"
    machines = lab.add_cluster(name, databases=DATABASES[target])
    nodes = machines[: len(machines) - DATABASES[target]]
    if target == "qemu":
        lab.edit_cluster(name, add_networks)
        more = {"etcd": {"disk_gib": 2, "quota_mib": 512}, "userdata": {"protect": "age"}}
        lab.edit_cluster(name, lambda config: config.update(more))
    up = lab.command("up", name, "--target", target, "--timeout", str(BOOT_S))
    if target == "qemu":
        path = late_qemu(tmp_path_factory.mktemp("late"), f"{name}-{nodes[0]}")
        up = replace(up, env={**up.env, "PATH": path})
    said = run(up)
    yield Running(lab, name, target, said.text, machines, nodes)
    lab.kubekiln("down", name)


def add_networks(config: dict[str, Any]) -> None:
    """Have the nodes' network tagged, and give each node a further card on another network."""
    config["network"]["vlan"] = VLAN
    for node in config["nodes"]:
        host = node["address"].rpartition(".")[2]
        node["nics"] = [{"address": f"{FURTHER_NETWORK}.{host}/24"}]


def late_qemu(directory: Path, machine: str) -> str:
    """Make a PATH with a QEMU whose machine of this name has a clock that is two hours behind.

    Its certificates begin an hour before they were made: to there, and so to an hour behind, it is
    put forward, also if an emulated boot takes long.
    """
    return changed_qemu(
        directory,
        f'[[ " $* " != *" -name {machine} "* ]] ||\n'
        '    set -- "$@" -rtc "base=$(date -u -d "2 hours ago" +%FT%T)"\n',
    )


def changed_qemu(directory: Path, change: str) -> str:
    """Make a PATH with a QEMU whose arguments these lines of bash change first."""
    real = find_tool("qemu-system-x86_64")
    program = directory / "qemu-system-x86_64"
    program.write_text(f'#!/bin/bash\n{change}exec {real} "$@"\n')
    program.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"
