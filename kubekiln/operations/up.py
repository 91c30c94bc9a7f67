# SPDX-License-Identifier: Apache-2.0
"""How does a cluster come up: bake, render, boot, wait until it is Ready?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cloudinit.families import of_family
from cloudinit.links import further_macs
from cloudinit.model import Cluster
from cloudinit.rendered import RenderedCluster
from kubekiln.errors import ConfigError
from kubekiln.files import make_dir, write_atomic
from kubekiln.operations.clusters import changing_machines
from kubekiln.operations.kubectl import pinned_kubectl
from kubekiln.operations.nodes import announce_new
from kubekiln.operations.placement import check_target
from kubekiln.operations.prepare import Plan, bake_image, key_dir_of, render
from kubekiln.operations.undo import undone_unless_up
from kubekiln.operations.wait import Boot, ask_ready_nodes
from kubekiln.paths import Project
from kubekiln.progress import say, step
from pipeline.targets.machine import BootImage, Machine
from pipeline.targets.protocol import Target
from pipeline.targets.record import Record, list_records, read_record, record_of, write_record
from pipeline.targets.registry import find_target

DEFAULT_TARGET = "qemu"


@dataclass(frozen=True)
class Up:
    """A cluster that is Ready."""

    cluster: str
    kubeconfig: Path
    nodes: tuple[str, ...]
    seconds: float
    """From power-on, or since the command was given if the machines ran already."""


def bring_up(
    project: Project,
    plan: Plan,
    *,
    target_name: str,
    timeout_s: float | None = None,
    keep: bool = False,
) -> Up:
    """Bake (from the cache if it can), render, boot and wait until every node is Ready.

    The wait ends after `timeout_s`, or after what the target thinks right. An interrupt, and unless
    `keep` a failure, leaves nothing running of what this call started.
    """
    target = find_target(target_name)
    timeout_s = timeout_s or target.patience_s(len(plan.cluster.nodes))
    check_target(target, project, plan.cluster, plan.path)
    image = bake_image(project, plan)
    rendered = render(project, plan)
    kubectl = pinned_kubectl(project, image=plan.cluster.image, version=plan.cluster.kubernetes)
    with contextlib.ExitStack() as alone:
        alone.enter_context(changing_machines(project, plan.cluster.name))
        machines = [
            keep_or_make(machine, target_name)
            for machine in plan_machines(project, plan.cluster, rendered, image)
        ]
        announce_new(project, plan.cluster, target, machines)
        started = time.monotonic()
        with undone_unless_up(target, machines, project=project, keep=keep) as booted:
            for machine in machines:
                boot(target, target_name, machine, booted)
            alone.close()  # `down` needn't wait until they are Ready
            ready = partial(ask_ready_nodes, kubectl, rendered.admin_kubeconfig)
            _wait(target, machines, plan.cluster, ready, timeout_s=timeout_s)
    seconds = time.monotonic() - started
    names = tuple(machine.name for machine in machines)
    return Up(plan.cluster.name, rendered.admin_kubeconfig, names, seconds)


def _wait(
    target: Target,
    machines: Sequence[Machine],
    cluster: Cluster,
    ready_nodes: Callable[[], frozenset[str]],
    *,
    timeout_s: float,
) -> None:
    nodes = frozenset(node.name for node in cluster.nodes if node.runs_pods)
    with step(f"Waiting for {cluster.name}") as note:
        Boot(target, machines, ready_nodes, nodes=nodes).wait(timeout_s=timeout_s, note=note)


def choose_target(project: Project, cluster: str, given: str | None) -> str:
    """Give the target that is asked for, or else that of the cluster's machines, or else QEMU."""
    if given is not None:
        return given
    records = list_records(project.machines_dir, cluster)
    return records[0].target if records else DEFAULT_TARGET


def plan_machines(
    project: Project, cluster: Cluster, rendered: RenderedCluster, image: BootImage
) -> list[Machine]:
    """Join what the two halves made: a machine is an image and a seed."""
    seeds = {node.name: node for node in rendered.nodes}
    # Without a router of its own a network still needs an address for the host's side.
    gateways = tuple(
        of_family(cluster.network.gateways, network.version) or network[-2]
        for network in cluster.network.node_cidrs
    )
    machines = []
    # On a balancer the way in outlives any one master.
    door = cluster.doors[0]
    for node in cluster.nodes:
        seed = seeds[node.name]
        machines.append(
            Machine(
                cluster=cluster.name,
                name=node.name,
                role=node.role,
                image=image,
                seed_dir=seed.directory,
                seed_iso=seed.seed_iso,
                mac=seed.mac,
                addresses=cluster.interfaces_of(node),
                gateways=gateways,
                run_dir=project.machines_dir / cluster.name / node.name,
                api_host_port=cluster.api.host_port if node == door else None,
                api_port=cluster.api.port,
                cpus=node.cpus,
                memory_mib=node.memory_mib,
                disk_gib=node.disk_gib,
                etcd_disk_gib=cluster.etcd_disk_gib_of(node),
                siblings_cpus=sum(other.cpus for other in cluster.nodes) - node.cpus,
                vlan=cluster.network.vlan,
                nics=further_macs(cluster, node),
                key_dir=key_dir_of(project, cluster, node.name),
            )
        )
    return machines


def keep_or_make(machine: Machine, target_name: str) -> Machine:
    """Take a machine that is there as it was made; say so if it would be made otherwise now."""
    record = read_record(machine.run_dir)
    if record is None:
        return machine
    changed = differences(record, record_of(target_name, machine))
    if changed:
        say(
            f"note: {machine.name} stays as it was made ({', '.join(changed)} changed since); a "
            f"change is a new machine: `kubekiln down {machine.cluster}` first"
        )
    return record.machine


def differences(old: Record, new: Record) -> list[str]:
    """Name what a machine would be made of differently now."""
    found = ["image"] if old.machine.image.digest != new.machine.image.digest else []
    if old.user_data_sha256 != new.user_data_sha256:
        found.append("user-data")
    settings = ("mac", "addresses", "gateways", "api_host_port", "cpus", "memory_mib", "disk_gib",
                "etcd_disk_gib", "vlan", "nics")  # fmt: skip
    return found + [s for s in settings if getattr(old.machine, s) != getattr(new.machine, s)]


def boot(target: Target, target_name: str, machine: Machine, booted: list[Machine]) -> None:
    """Boot one machine unless it runs; from here on it counts as started by us."""
    if target.status(machine).state == "running":
        say(f"{machine.name} runs already")
        return
    if not machine.image.qcow2.exists():
        raise ConfigError(
            f"the image of {machine.name} is gone: {machine.image.qcow2}",
            hint=f"`kubekiln down {machine.cluster}` removes the machine, then a new one is made",
        )
    booted.append(machine)
    with step(f"Booting {machine.name} ({target_name}, image {machine.image.name})"):
        own = own_seed(machine)
        write_record(record_of(target_name, own))
        target.boot(own)


def own_seed(machine: Machine) -> Machine:
    """Give the machine a copy of its seed: the next rendering is not this machine's business."""
    if read_record(machine.run_dir) is not None:
        return machine
    seed_dir = make_dir(machine.run_dir / "seed", mode=0o700)
    for name in ("user-data", "meta-data", "network-config"):
        # A machine of a pool has no network-config.
        if (machine.seed_dir / name).exists():
            write_atomic(seed_dir / name, (machine.seed_dir / name).read_bytes(), mode=0o600)
    seed_iso = machine.run_dir / "seed.iso"
    write_atomic(seed_iso, machine.seed_iso.read_bytes(), mode=0o600)
    key_dir = machine.key_dir and make_dir(machine.run_dir / "key", mode=0o700)
    if machine.key_dir and key_dir:
        for path in machine.key_dir.iterdir():
            write_atomic(key_dir / path.name, path.read_bytes(), mode=0o600)
    return replace(machine, seed_dir=seed_dir, seed_iso=seed_iso, key_dir=key_dir)
