# SPDX-License-Identifier: Apache-2.0
"""Which domains of a libvirt daemon are ours, in which state are they, and how are they ended?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kubekiln.errors import KubekilnError
from pipeline.targets.libvirt_connection import libvirt_module, none_if, undo_if_not
from pipeline.targets.libvirt_domain import TAGS, tags_of
from pipeline.targets.libvirt_volumes import drop_volume, find_volume, is_blank, volume_names
from pipeline.targets.platform import Instance, InstanceSpec, InstanceState

DISK, ETCD_DISK, CONSOLE = "disk.qcow2", "etcd.qcow2", "console.log"
SEED, KEY = "seed.iso", "key.iso"
# virtlogd begins a new console.log after 2 MiB, and keeps the old ones as console.log.0 and so on.
_OURS = re.compile(
    r"kubekiln_([a-z0-9-]+)_([a-z0-9-]+)_((disk|etcd)\.qcow2|(seed|key)\.iso|console\.log.*)"
)

# A state of libvirt's → ours, and a word about it. None is `failed`: that is removed and made anew,
# which a machine with a disk must not be unasked.
_STATES: Mapping[str, tuple[InstanceState, str]] = {
    "VIR_DOMAIN_RUNNING": ("running", ""),
    "VIR_DOMAIN_BLOCKED": ("running", ""),
    "VIR_DOMAIN_SHUTDOWN": ("running", "shutting down"),
    "VIR_DOMAIN_PAUSED": ("stopped", "paused; if nobody did that, its host's disk is full"),
    "VIR_DOMAIN_PMSUSPENDED": ("stopped", "suspended"),
    "VIR_DOMAIN_CRASHED": ("stopped", "crashed"),
    "VIR_DOMAIN_SHUTOFF": ("stopped", ""),
}
# What a stopped domain is woken by, if not by `create`, which is for one that isn't there.
_WAKING = {"VIR_DOMAIN_PAUSED": "resume", "VIR_DOMAIN_PMSUSPENDED": "pMWakeup"}
# Of what libvirt keeps for a domain, and without which it would refuse to forget it.
_WITH = (
    "VIR_DOMAIN_UNDEFINE_NVRAM", "VIR_DOMAIN_UNDEFINE_MANAGED_SAVE",
    "VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA", "VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA",
)  # fmt: skip


def volume_prefix(cluster: str, node: str) -> str:
    """Begin the names of a machine's volumes; `_` is in no name of a cluster, node or image."""
    return f"kubekiln_{cluster}_{node}_"


def instance_of(domain: Any) -> Instance | None:
    """Describe a domain if it has our tags; None also if it went in the meantime."""
    tags = _tags(domain)
    state = none_if(("VIR_ERR_NO_DOMAIN",), lambda: domain.state(0)[0])
    if tags is None or state is None:
        return None
    ours, detail = _STATES[_state_name(state)]
    return Instance(
        id=domain.name(),
        cluster=tags["cluster"],
        node=tags["node"],
        payload=tags["payload"],
        state=ours,
        addresses=tuple(tags["addresses"].split()),
        detail=detail,
        extra={name: tags[name] for name in ("pool", "key_pool") if name in tags},
    )


def half_made(pool: Any) -> list[Instance]:
    """List machines by the volumes that are there for them."""
    found = {(m[1], m[2]) for m in map(_OURS.fullmatch, volume_names(pool)) if m}
    return [
        Instance(f"{cluster}-{node}", cluster, node, "", "failed", detail="half made",
                 lone_disks=_written(pool, cluster, node))
        for cluster, node in sorted(found)
    ]  # fmt: skip


def _written(pool: Any, cluster: str, node: str) -> tuple[str, ...]:
    """Name a machine's disk of etcd if anything was ever written to it."""
    name = volume_prefix(cluster, node) + ETCD_DISK
    volume = find_volume(pool, name)
    return (name,) if volume is not None and not is_blank(volume) else ()


def find_domain(connection: Any, cluster: str, node: str, name: str | None = None) -> Any:
    """Give the domain of a node, or None; one of that name that isn't ours is none."""
    domain = _by_name(connection, name or f"{cluster}-{node}")
    tags = _tags(domain) if domain is not None else None
    return domain if tags and (tags["cluster"], tags["node"]) == (cluster, node) else None


def find_made(connection: Any, spec: InstanceSpec) -> Any:
    """Give the domain that was made of a node's description, or None.

    Raises KubekilnError if what has its name isn't ours, or was made of something else.
    """
    domain = find_domain(connection, spec.cluster, spec.node)
    if domain is None:
        if _by_name(connection, spec.name) is not None:
            raise KubekilnError(f"a domain {spec.name} is there that isn't this node's",
                                hint="rename it, or the cluster")  # fmt: skip
        return None
    tags = _tags(domain)
    if tags and tags["payload"] != spec.payload:
        raise KubekilnError(f"{spec.name} is there, made of another image or user-data",
                            hint="remove it first, if it is to be replaced")  # fmt: skip
    return domain


def power_on(domain: Any) -> None:
    """Start a domain, or wake it; fine if it runs."""
    state = _state_name(domain.state(0)[0])
    if _STATES[state][0] == "stopped":
        getattr(domain, _WAKING.get(state, "create"))()


def start_new(domain: Any) -> None:
    """Start a domain for the first time; have it forgotten if that fails."""
    undo_if_not(domain.create, lambda: undefine(domain))


def undefine(domain: Any) -> None:
    """Have a domain forgotten, with what libvirt itself keeps for it."""
    module = libvirt_module()
    flags = sum(getattr(module, name) for name in _WITH)
    none_if(("VIR_ERR_NO_DOMAIN",), lambda: domain.undefineFlags(flags))


def change(domain: Any, device: str) -> None:
    """Change a device of a domain, now if it runs and for each later start."""
    module = libvirt_module()
    flags = module.VIR_DOMAIN_AFFECT_CONFIG
    if domain.isActive():
        flags |= module.VIR_DOMAIN_AFFECT_LIVE
    domain.updateDeviceFlags(device, flags)


def end(domain: Any) -> None:
    """Switch a domain off, and have it forgotten."""
    none_if(("VIR_ERR_OPERATION_INVALID", "VIR_ERR_NO_DOMAIN"), domain.destroy)
    undefine(domain)


def drop_volumes(pool: Any, cluster: str, node: str) -> None:
    """Remove all volumes of a machine."""
    prefix = volume_prefix(cluster, node)
    for name in volume_names(pool):
        if name.startswith(prefix):
            drop_volume(pool, name)


def _by_name(connection: Any, name: str) -> Any:
    return none_if(("VIR_ERR_NO_DOMAIN",), lambda: connection.lookupByName(name))


def _tags(domain: Any) -> dict[str, str] | None:
    element = libvirt_module().VIR_DOMAIN_METADATA_ELEMENT
    without = ("VIR_ERR_NO_DOMAIN_METADATA", "VIR_ERR_NO_DOMAIN")
    text = none_if(without, lambda: domain.metadata(element, TAGS, 0))
    return tags_of(text) if text else None


def _state_name(state: int) -> str:
    module = libvirt_module()
    return next((n for n in _STATES if getattr(module, n) == state), "VIR_DOMAIN_RUNNING")
