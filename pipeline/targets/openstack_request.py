# SPDX-License-Identifier: Apache-2.0
"""What is Nova and Neutron asked for, to make a node's machine? (Values only; nothing is asked.)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from kubekiln.channel import CHANNELS
from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.openstack_settings import Network, Settings
from pipeline.targets.platform import TAG_PREFIX, DiskImage, InstanceSpec, RemoteImage
from pipeline.targets.unfit import more_cards, raised_by, smaller_disk, too_large

_CHANNEL = CHANNELS["openstack"]
_CLUSTER, _NODE, _PAYLOAD = (f"{TAG_PREFIX}-{key}" for key in ("cluster", "node", "payload"))
_APART = {"soft": "soft-anti-affinity", "hard": "anti-affinity"}
# Of these there are several for the sake of being on different hosts.
_APART_ROLES = ("master", "etcd")


@dataclass(frozen=True)
class Flavor:
    """A size of machines that the cloud has."""

    id: str
    name: str
    cpus: int
    memory_mib: int
    disk_gib: int


def refusals(
    spec: InstanceSpec, image: DiskImage, settings: Settings, flavors: Iterable[Flavor]
) -> Iterator[Problem]:
    """Say what of a node Nova can't have; the disk of a named flavor is known to its cloud."""
    yield from too_large(spec, "openstack")
    yield from more_cards(spec, len(settings.networks))
    yield from raised_by(lambda: choose_flavor(flavors, spec, settings))
    if settings.boot_from == "volume" or not settings.flavor:
        yield from smaller_disk(spec, image)


def tags_text(tags: Mapping[str, str]) -> str:
    """Write tags as a port's description: what has no metadata has that, from its making on."""
    return " ".join(f"{key}={value}" for key, value in sorted(tags.items()))


def read_tags(text: str) -> dict[str, str]:
    """Read tags from a description; empty if it isn't one of ours."""
    found = dict(word.split("=", 1) for word in text.split() if "=" in word)
    return found if {_CLUSTER, _NODE} <= set(found) else {}


def identity(tags: Mapping[str, str]) -> tuple[str, str, str]:
    """Give cluster, node and payload."""
    return tags[_CLUSTER], tags[_NODE], tags.get(_PAYLOAD, "")


def is_ours(tags: Mapping[str, str]) -> bool:
    """Tell whether tags are those of a machine of ours."""
    return {_CLUSTER, _NODE} <= set(tags)


def port_requests(
    spec: InstanceSpec, networks: Sequence[tuple[Network, str, Sequence[str]]]
) -> list[dict[str, Any]]:
    """Describe a port for each card; `networks` with their id and those of their groups."""
    return [
        _port(spec, mac, addresses, *network)
        for mac, addresses, network in zip(
            spec.macs, card_addresses(spec), networks[: len(spec.macs)], strict=True
        )
    ]


def _port(
    spec: InstanceSpec,
    mac: str,
    addresses: Sequence[str],
    network: Network,
    network_id: str,
    group_ids: Sequence[str],
) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "name": spec.name,
        "network_id": network_id,
        "mac_address": mac,
        "description": tags_text(spec.tags),
    }
    if network.fixed_addresses and addresses:
        wanted["fixed_ips"] = [{"ip_address": address} for address in addresses]
    if network.port_security is not None:
        wanted["is_port_security_enabled"] = network.port_security
    if network.allowed_addresses:
        pairs = [{"ip_address": str(address)} for address in network.allowed_addresses]
        wanted["allowed_address_pairs"] = pairs
    if group_ids:
        wanted["security_group_ids"] = list(group_ids)
    elif network.port_security is False:
        # Neutron adds the default group otherwise, and then refuses it.
        wanted["security_group_ids"] = []
    return wanted


def card_addresses(spec: InstanceSpec) -> list[tuple[str, ...]]:
    """Give the addresses of each card, as rendered; none where a lease decides."""
    config = yaml.safe_load(spec.network_config.reveal()) or {}
    cards = (config.get("ethernets") or {}).values()
    by_mac = {
        str(card.get("match", {}).get("macaddress")): card.get("addresses") or () for card in cards
    }
    further = [
        tuple(address.partition("/")[0] for address in by_mac.get(mac, ())) for mac in spec.macs[1:]
    ]
    return [spec.addresses, *further]


def choose_flavor(flavors: Iterable[Flavor], spec: InstanceSpec, settings: Settings) -> Flavor:
    """Give the one that is named, or the smallest that is enough; KubekilnError if none is."""
    there = sorted(flavors, key=lambda f: (f.cpus, f.memory_mib, f.disk_gib, f.name))
    if settings.flavor:
        named = [f for f in there if settings.flavor in (f.name, f.id)]
        if not named:
            names = ", ".join(f.name for f in there) or "none"
            raise KubekilnError(f"no flavor {settings.flavor!r}", hint=f"there are: {names}")
        return named[0]
    # A volume has its own size.
    disk_gib = 0 if settings.boot_from == "volume" else spec.disk_gib
    enough = [
        f for f in there
        if f.cpus >= spec.cpus and f.memory_mib >= spec.memory_mib and f.disk_gib >= disk_gib
    ]  # fmt: skip
    if not enough:
        raise KubekilnError(
            f"no flavor has what {spec.node} wants: {spec.cpus} CPUs, {spec.memory_mib} MiB, "
            f"{disk_gib} GiB of disk",
            hint="name one by `flavor`, or ask the node for less; `boot_from: volume` needs no "
            "disk of the flavor's",
        )
    return enough[0]


def server_request(
    spec: InstanceSpec,
    image: RemoteImage,
    settings: Settings,
    *,
    flavor_id: str,
    port_ids: Iterable[str],
    group_id: str | None,
) -> dict[str, Any]:
    """Describe the machine to Nova."""
    wanted: dict[str, Any] = {
        "name": spec.name,
        "flavor_id": flavor_id,
        "networks": [{"port": port_id} for port_id in port_ids],
        "user_data": spec.attached("openstack")[_CHANNEL.file].reveal_text(),
        "config_drive": settings.config_drive,
        "metadata": spec.tags,
    }
    if settings.boot_from == "image":
        wanted["image_id"] = image.id
    if disks := _disks(spec, image, settings):
        wanted["block_device_mapping"] = disks
    if settings.availability_zone:
        wanted["availability_zone"] = settings.availability_zone
    if group_id:
        wanted["scheduler_hints"] = {"group": group_id}
    return wanted


def _disks(spec: InstanceSpec, image: RemoteImage, settings: Settings) -> list[dict[str, Any]]:
    """Describe the disks; none if it is that of the flavor alone, of which the image tells."""
    root: dict[str, Any] = {"boot_index": 0, "uuid": image.id, "source_type": "image"}
    if settings.boot_from == "volume":
        root |= _volume(spec.disk_gib, settings)
    elif spec.etcd_disk_gib:
        # Beside another one it has to be listed as well.
        root |= {"destination_type": "local", "delete_on_termination": True}
    else:
        return []
    if not spec.etcd_disk_gib:
        return [root]
    empty = {"boot_index": -1, "source_type": "blank", **_volume(spec.etcd_disk_gib, settings)}
    return [root, empty]


def _volume(gib: int, settings: Settings) -> dict[str, Any]:
    volume = {"destination_type": "volume", "volume_size": gib, "delete_on_termination": True}
    return volume | ({"volume_type": settings.volume_type} if settings.volume_type else {})


def group_name(cluster: str, role: str) -> str:
    """What the server group of a cluster's masters, or machines of etcd, is called."""
    return f"{TAG_PREFIX}-{cluster}-{role}"


def group_names(cluster: str) -> tuple[str, ...]:
    """What the server groups of a cluster are called, whether there are any or not."""
    return tuple(group_name(cluster, role) for role in _APART_ROLES)


def group_request(spec: InstanceSpec, settings: Settings) -> dict[str, Any] | None:
    """Describe the group that keeps this machine apart from its like; None if nothing does."""
    if settings.anti_affinity == "none" or spec.role not in _APART_ROLES:
        return None
    policy = _APART[settings.anti_affinity]
    return {"name": group_name(spec.cluster, spec.role), "policy": policy}
