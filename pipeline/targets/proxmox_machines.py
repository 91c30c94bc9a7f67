# SPDX-License-Identifier: Apache-2.0
"""How is a node described to Proxmox, and what does Proxmox say of a machine?

Pure: parameters of requests go out, answers come in. Proxmox' tags are words without a value, so
the value is a part of the word: `kubekiln-node-lab-1`. A machine is made with the tag
`kubekiln-unfinished`, which it loses last.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kubekiln.errors import Problem
from pipeline.targets.platform import TAG_PREFIX, DiskImage, Instance, InstanceSpec, InstanceState
from pipeline.targets.proxmox_settings import Network, Settings
from pipeline.targets.unfit import more_cards, smaller_disk

UNFINISHED = f"{TAG_PREFIX}-unfinished"
_KEYS = tuple(f"{TAG_PREFIX}-{what}" for what in ("cluster", "node", "payload"))
_CLUSTER, _NODE, _PAYLOAD = _KEYS
# Names of clusters and nodes have no `_`.
_SEED = re.compile(rf"{TAG_PREFIX}-seed_(?P<cluster>[^_]+)_(?P<node>[^_]+)_(?P<payload>[^_]+)\.iso")
_STATES: Mapping[str, InstanceState] = {"running": "running", "stopped": "stopped"}
_NAMESPACE = uuid.UUID("6d8d4d5e-0f38-5c0e-9a3f-3a4f6a0d7c11")


def refusals(spec: InstanceSpec, image: DiskImage, settings: Settings) -> Iterator[Problem]:
    """Say why this machine can't be made."""
    yield from more_cards(spec, len(settings.networks))
    yield from smaller_disk(spec, image)


def seed_name(spec: InstanceSpec) -> str:
    """Name the file of a node's seed; a changed one has another name."""
    return f"{TAG_PREFIX}-seed_{spec.cluster}_{spec.node}_{spec.payload}.iso"


def machine_parameters(settings: Settings, spec: InstanceSpec, vmid: int) -> dict[str, Any]:
    """Describe the machine without its disks: made in a moment, and found by its tags from then."""
    parameters: dict[str, Any] = {
        "vmid": vmid,
        "name": spec.name,
        "description": json.dumps({**spec.tags, f"{TAG_PREFIX}-role": spec.role}),
        "tags": ";".join([TAG_PREFIX, UNFINISHED, *tag_words(spec.tags)]),
        "ostype": "l26",
        "cores": spec.cpus,
        "cpu": settings.cpu,
        "memory": spec.memory_mib,
        # Kubernetes counts on its memory.
        "balloon": 0,
        "agent": "enabled=0",
        "scsihw": "virtio-scsi-single",
        "serial0": "socket",
        "vga": "serial0",
        "smbios1": _smbios(spec),
        "onboot": int(settings.onboot),
    }
    for index, mac in enumerate(spec.macs):
        parameters[f"net{index}"] = net_words(settings.networks[index], mac)
    if settings.firmware == "uefi":
        efi = f"{settings.disk_storage}:1,efitype=4m,pre-enrolled-keys=0"
        parameters.update(bios="ovmf", machine="q35", efidisk0=efi)
    if settings.pool:
        parameters["pool"] = settings.pool
    return parameters


def disk_parameters(
    settings: Settings, spec: InstanceSpec, image: str, seed: str
) -> dict[str, Any]:
    """Describe the disk, a copy of the image, the CD with the seed, and etcd's own disk.

    All on virtio-scsi: Debian 12's cloud kernel has no driver for a CD on SATA.
    """
    storage, options = settings.disk_storage, "discard=on,iothread=1,ssd=1"
    disks = {
        "scsi0": f"{storage}:0,import-from={image},{options}",
        "scsi1": f"{seed},media=cdrom",
    }
    if spec.etcd_disk_gib:
        disks["scsi2"] = f"{storage}:{spec.etcd_disk_gib},{options}"
    return disks


NO_SEED = {"scsi1": "none,media=cdrom"}
"""The drive stays, empty."""


def net_words(network: Network, mac: str) -> str:
    """Describe a network card."""
    words = [f"virtio={mac.upper()}", f"bridge={network.bridge}"]
    if network.vlan is not None:
        words.append(f"tag={network.vlan}")
    if network.mtu is not None:
        words.append(f"mtu={network.mtu}")
    if network.firewall:
        words.append("firewall=1")
    return ",".join(words)


def _smbios(spec: InstanceSpec) -> str:
    # The same UUID each time that the same machine is asked for.
    same = uuid.uuid5(_NAMESPACE, json.dumps(spec.tags, sort_keys=True))
    serial = base64.b64encode(spec.name.encode()).decode()
    return f"uuid={same},serial={serial},base64=1"


def tag_words(tags: Mapping[str, str]) -> list[str]:
    """Write tags as Proxmox has them."""
    return [f"{key}-{value}" for key, value in tags.items()]


def finished(spec: InstanceSpec) -> dict[str, Any]:
    """Describe what makes a machine whole when it has its disks: its boot order, and its tags.

    No order goes along with the disks: Proxmox adds a new CD to the order that was there before,
    and which of the two is kept is chance.
    """
    return {"boot": "order=scsi0", "tags": ";".join([TAG_PREFIX, *tag_words(spec.tags)])}


def read_tags(words: str | None) -> dict[str, str]:
    """Read our tags out of all those of a machine; empty if it isn't ours."""
    found: dict[str, str] = {}
    for word in re.split(r"[;, ]+", words or ""):
        for key in _KEYS:
            if word.startswith(f"{key}-"):
                found[key] = word.removeprefix(f"{key}-")
    return found if _CLUSTER in found and _NODE in found else {}


def is_of(tags: str | None, instance: Instance) -> bool:
    """Tell whether a machine is still this one: its number may have become another's."""
    wanted = (instance.cluster, instance.node, instance.payload)
    found = read_tags(tags)
    return (found.get(_CLUSTER), found.get(_NODE), found.get(_PAYLOAD, "")) == wanted


def instances_of(
    resources: Iterable[Mapping[str, Any]], seeds: Iterable[str], cluster: str | None
) -> list[Instance]:
    """Join machines with their seeds; a seed without a machine is a failed machine."""
    left = {volume: m for volume in seeds if (m := _SEED.search(volume))}
    found = []
    for resource in resources:
        tags = read_tags(resource.get("tags"))
        if not tags or resource.get("type") != "qemu":
            continue
        own = [
            v for v, m in left.items() if (m["cluster"], m["node"]) == (tags[_CLUSTER], tags[_NODE])
        ]
        found.append(_instance(resource, tags, own))
        left = {volume: m for volume, m in left.items() if volume not in own}
    found += [
        Instance(volume, m["cluster"], m["node"], m["payload"], "failed",
                 detail="a seed without a machine", extra={"seeds": volume})
        for volume, m in sorted(left.items())
    ]  # fmt: skip
    return [instance for instance in found if cluster in (None, instance.cluster)]


def _instance(
    resource: Mapping[str, Any], tags: Mapping[str, str], seeds: Sequence[str]
) -> Instance:
    unfinished = UNFINISHED in str(resource.get("tags"))
    status = str(resource.get("status", "unknown"))
    return Instance(
        id=str(resource["vmid"]),
        cluster=tags[_CLUSTER],
        node=tags[_NODE],
        payload=tags.get(_PAYLOAD, ""),
        state="failed" if unfinished else _STATES.get(status, "starting"),
        detail=f"{status} on {resource['node']}",
        extra={"host": str(resource["node"]), "seeds": " ".join(seeds)},
    )
