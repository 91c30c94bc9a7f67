# SPDX-License-Identifier: Apache-2.0
"""Can a libvirt daemon do what a target says, for which nodes, and how will they run there?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from kubekiln.errors import Problem
from pipeline.targets.kvm import kvm_fails
from pipeline.targets.libvirt_connection import none_if
from pipeline.targets.libvirt_domain import Host, node_address, offers_kvm, pool_type
from pipeline.targets.libvirt_settings import Settings
from pipeline.targets.libvirt_volumes import POOLS_OF_FILES
from pipeline.targets.platform import DiskImage, InstanceSpec
from pipeline.targets.unfit import more_cards, raised_by, smaller_disk


def find_problems(connection: Any, settings: Settings) -> Iterator[Problem]:
    """Say what is missing there; bridges are only seen when a machine is started."""
    where = str(connection.getURI())
    if connection.getType() != "QEMU":
        yield Problem(
            f"{connection.getType()} is not QEMU", where, "`uri` is one like qemu:///system"
        )
        return
    if settings.accelerator == "kvm" and not offers_kvm(connection.getCapabilities()):
        yield Problem("the daemon offers no KVM", where, "may it open /dev/kvm of its host?")
    for pool in sorted({settings.pool, settings.pool_of_keys}):
        yield from _pool_problems(connection, pool, where)
    for network in settings.networks:
        if network.network:
            yield from _network_problems(connection, network.network, where)


def refusals(spec: InstanceSpec, image: DiskImage, settings: Settings) -> Iterator[Problem]:
    """Say which of a node's cards has nothing to be plugged into, and whether its disk is small."""
    yield from more_cards(spec, len(settings.networks))
    yield from smaller_disk(spec, image)
    first = settings.networks[0]
    if first.user:
        yield from raised_by(lambda: node_address(spec, first))


def host_of(connection: Any, settings: Settings) -> Host:
    """Tell how instructions will be executed there, and by which QEMU."""
    return Host(_takes_kvm(connection, settings), connection.getVersion())


def _takes_kvm(connection: Any, settings: Settings) -> bool:
    if settings.accelerator != "auto":
        return settings.accelerator == "kvm"
    is_here = not urlsplit(connection.getURI()).netloc
    return offers_kvm(connection.getCapabilities()) and not (is_here and kvm_fails())


def _pool_problems(connection: Any, name: str, where: str) -> Iterator[Problem]:
    pool = none_if(("VIR_ERR_NO_STORAGE_POOL",), lambda: connection.storagePoolLookupByName(name))
    if pool is None:
        hint = f"`virsh pool-define-as {name} dir --target DIRECTORY` and `virsh pool-start {name}`"
        yield Problem(f"no storage pool {name}", where, f"{hint} make one")
    elif not pool.isActive():
        yield Problem(f"storage pool {name} is not active", where, f"`virsh pool-start {name}`")
    elif (kind := pool_type(pool.XMLDesc(0))) not in POOLS_OF_FILES:
        yield Problem(
            f"storage pool {name} is of type {kind}, which holds no qcow2 files", where,
            f"name one of type {', '.join(POOLS_OF_FILES)}",
        )  # fmt: skip


def _network_problems(connection: Any, name: str, where: str) -> Iterator[Problem]:
    network = none_if(("VIR_ERR_NO_NETWORK",), lambda: connection.networkLookupByName(name))
    if network is None:
        yield Problem(f"no network {name}", where, "`virsh net-list --all` lists them")
    elif not network.isActive():
        yield Problem(f"network {name} is not active", where, f"`virsh net-start {name}`")
