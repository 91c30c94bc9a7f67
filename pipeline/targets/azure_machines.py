# SPDX-License-Identifier: Apache-2.0
"""How is a node described to Azure's Resource Manager, and what does Azure say of a machine?

Pure: bodies of requests go out, answers come in. A machine is a virtual machine NAME with a disk
NAME-os and a network card NAME-nic; all bear the node's tags.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kubekiln.channel import CHANNELS
from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.azure_settings import Settings, Size
from pipeline.targets.platform import (
    TAG_PREFIX,
    DiskImage,
    Instance,
    InstanceSpec,
    InstanceState,
    RemoteImage,
)
from pipeline.targets.spread import pick_for
from pipeline.targets.unfit import ONE_CARD, more_cards, raised_by, smaller_disk, too_large

_CHANNEL = CHANNELS["azure"]
CLUSTER_TAG, NODE_TAG, PAYLOAD_TAG = (
    f"{TAG_PREFIX}-{what}" for what in ("cluster", "node", "payload")
)

# https://learn.microsoft.com/azure/virtual-machines/states-billing
_POWER: Mapping[str, InstanceState] = {
    "running": "running", "starting": "starting", "stopping": "stopped", "stopped": "stopped",
    "deallocating": "stopped", "deallocated": "stopped",
}  # fmt: skip
_PROVISIONING: Mapping[str, InstanceState] = {
    "creating": "starting", "failed": "failed", "deleting": "failed",
}  # fmt: skip

Resource = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Resource IDs of what is there before a machine."""

    subnet: str
    security_group: str | None = None
    availability_set: str | None = None
    ssh_public_key: str = ""


def refusals(spec: InstanceSpec, image: DiskImage, settings: Settings) -> Iterator[Problem]:
    """Say why Azure can't make this machine; it gets no network-config of ours, so one card."""
    yield from too_large(spec, "azure")
    yield from more_cards(spec, 1, ONE_CARD)
    yield from smaller_disk(spec, image)
    yield from raised_by(lambda: pick_size(settings, spec))


def _custom_data(spec: InstanceSpec) -> bytes:
    return spec.attached("azure")[_CHANNEL.file].reveal()


def pick_size(settings: Settings, spec: InstanceSpec) -> str:
    """Choose the smallest size that has what the node wants; raises KubekilnError if none has."""
    if settings.size:
        return settings.size
    fitting = [s for s in settings.sizes
               if s.cpus >= spec.cpus and s.memory_mib >= spec.memory_mib]  # fmt: skip
    if not fitting:
        raise KubekilnError(
            f"no size has the {spec.cpus} CPUs and {spec.memory_mib} MiB of {spec.node}",
            hint="name larger ones in `sizes` of the target's file",
        )
    return min(fitting, key=_cost).name


def _cost(size: Size) -> tuple[int, int]:
    return size.cpus, size.memory_mib


def nic_body(settings: Settings, place: Place, spec: InstanceSpec) -> dict[str, Any]:
    """Describe the network card, with the node's addresses."""
    addresses = spec.addresses if settings.static_addresses else ()
    properties: dict[str, Any] = {
        "ipConfigurations": list(_ip_configurations(addresses, place.subnet)),
        "enableAcceleratedNetworking": settings.accelerated_networking,
        "enableIPForwarding": settings.ip_forwarding,
    }
    if place.security_group:
        properties["networkSecurityGroup"] = {"id": place.security_group}
    return {
        "location": settings.location,
        "tags": {**settings.tags, **spec.tags},
        "properties": properties,
    }


def _ip_configurations(addresses: Iterable[str], subnet: str) -> Iterable[dict[str, Any]]:
    by_version = {f"IPv{ipaddress.ip_address(a).version}": a for a in addresses}
    # A card's first configuration is of IPv4, also where the cluster has none.
    for version in ("IPv4", *(v for v in by_version if v != "IPv4")):
        properties: dict[str, Any] = {
            "subnet": {"id": subnet},
            "primary": version == "IPv4",
            "privateIPAddressVersion": version,
            "privateIPAllocationMethod": "Static" if version in by_version else "Dynamic",
        }
        if version in by_version:
            properties["privateIPAddress"] = by_version[version]
        yield {"name": version.lower(), "properties": properties}


def vm_body(
    settings: Settings, place: Place, spec: InstanceSpec, image: RemoteImage, nic: str
) -> dict[str, Any]:
    """Describe a virtual machine; card and disk go with it when it is deleted."""
    properties: dict[str, Any] = {
        "hardwareProfile": {"vmSize": pick_size(settings, spec)},
        "storageProfile": {
            "imageReference": {"id": image.id},
            "osDisk": {
                "name": disk_name(spec.name),
                "createOption": "FromImage",
                "deleteOption": "Delete",
                "caching": "ReadWrite",
                "diskSizeGB": spec.disk_gib,
                "managedDisk": {"storageAccountType": settings.disk_type},
            },
            "dataDisks": _etcd_disks(settings, spec),
        },
        "osProfile": _os_profile(settings, place, spec),
        "networkProfile": {
            "networkInterfaces": [
                {"id": nic, "properties": {"primary": True, "deleteOption": "Delete"}}
            ],
        },
        # Without a storage account Azure keeps the console itself.
        "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
    }
    body: dict[str, Any] = {
        "location": settings.location,
        "tags": {**settings.tags, **spec.tags},
        "properties": properties,
    }
    if settings.zones:
        body["zones"] = [pick_for(spec.node, settings.zones)]
    if place.availability_set:
        properties["availabilitySet"] = {"id": place.availability_set}
    return body


def _etcd_disks(settings: Settings, spec: InstanceSpec) -> list[dict[str, Any]]:
    if not spec.etcd_disk_gib:
        return []
    return [
        {
            "lun": 0,
            "name": etcd_disk_name(spec.name),
            "createOption": "Empty",
            "deleteOption": "Delete",
            # etcd waits until what it writes is on the disk.
            "caching": "None",
            "diskSizeGB": spec.etcd_disk_gib,
            "managedDisk": {"storageAccountType": settings.disk_type},
        }
    ]


def _os_profile(settings: Settings, place: Place, spec: InstanceSpec) -> dict[str, Any]:
    home = f"/home/{settings.admin_user}/.ssh/authorized_keys"
    return {
        "computerName": spec.node,
        "adminUsername": settings.admin_user,
        "customData": base64.b64encode(_custom_data(spec)).decode(),
        # The image has no agent of Azure's: cloud-init itself reports that the machine is ready.
        "allowExtensionOperations": False,
        "linuxConfiguration": {
            "disablePasswordAuthentication": True,
            "provisionVMAgent": False,
            "ssh": {"publicKeys": [{"path": home, "keyData": place.ssh_public_key}]},
        },
    }


def nic_name(machine: str) -> str:
    """Name a machine's network card."""
    return f"{machine}-nic"


def disk_name(machine: str) -> str:
    """Name a machine's disk."""
    return f"{machine}-os"


def etcd_disk_name(machine: str) -> str:
    """Name the disk that a machine's database has to itself."""
    return f"{machine}-etcd"


def is_of(resource: Resource, spec: InstanceSpec) -> bool:
    """Tell whether a resource bears the tags of this very node and payload."""
    tags = resource.get("tags") or {}
    return all(tags.get(key) == value for key, value in spec.tags.items())


def instances_of(
    machines: Iterable[Resource],
    nics: Iterable[Resource],
    disks: Iterable[Resource],
    cluster: str | None,
) -> list[Instance]:
    """Join machines with their cards and disks; cards or disks without one are failed machines."""
    wanted = _by_node(machines, cluster), _by_node(nics, cluster), _by_node(disks, cluster)
    return [
        _instance(*(part.get(key, []) for part in wanted))
        for key in sorted({key for part in wanted for key in part})
    ]


def _by_node(
    resources: Iterable[Resource], cluster: str | None
) -> dict[tuple[str, str], list[Resource]]:
    found: dict[tuple[str, str], list[Resource]] = {}
    for resource in resources:
        tags = resource.get("tags") or {}
        if CLUSTER_TAG in tags and NODE_TAG in tags and cluster in (None, tags[CLUSTER_TAG]):
            found.setdefault((tags[CLUSTER_TAG], tags[NODE_TAG]), []).append(resource)
    return found


def _instance(
    machines: Sequence[Resource], nics: Sequence[Resource], disks: Sequence[Resource]
) -> Instance:
    first = (*machines, *nics, *disks)[0]
    tags = first["tags"]
    # Disks get our tags when Azure has made the machine.
    state, detail = (
        state_of(machines[0], was_made=bool(disks))
        if machines
        else ("failed", "parts without a machine")
    )
    return Instance(
        id=first["id"],
        cluster=tags[CLUSTER_TAG],
        node=tags[NODE_TAG],
        payload=tags.get(PAYLOAD_TAG, ""),
        state=state,
        addresses=addresses_of(nics),
        detail=detail,
        extra={
            "nics": " ".join(_names(nics)),
            "disks": " ".join(_names(disks)),
        },
        # Tagged when their machine was made: they were in use.
        lone_disks=tuple(_names(d for d in disks if not d.get("managedBy"))),
    )


def _names(resources: Iterable[Resource]) -> list[str]:
    return sorted(resource["name"] for resource in resources)


def addresses_of(nics: Iterable[Resource]) -> tuple[str, ...]:
    """List the private addresses of network cards, in order of the cards."""
    found = []
    for nic in sorted(nics, key=lambda nic: str(nic["name"])):
        for one in nic.get("properties", {}).get("ipConfigurations", []):
            found.append(one.get("properties", {}).get("privateIPAddress"))
    return tuple(address for address in found if address)


def state_of(machine: Resource, *, was_made: bool) -> tuple[InstanceState, str]:
    """Read a machine's state: whether it was made, then whether it runs.

    Its provisioning state is that of the last operation, which may have been a start.
    """
    properties = machine.get("properties", {})
    provisioning = str(properties.get("provisioningState", "")).lower()
    statuses = (properties.get("instanceView") or {}).get("statuses") or []
    codes = [str(status.get("code", "")) for status in statuses]
    power = next((c.partition("/")[2] for c in codes if c.startswith("PowerState/")), "")
    if provisioning == "failed" and was_made:
        return _POWER.get(power, "stopped"), f"{power or 'state unknown'}, its last change failed"
    if provisioning in _PROVISIONING:
        return _PROVISIONING[provisioning], provisioning
    if power == "running" and not was_made:
        return "starting", "running, its making was not seen to the end"
    return _POWER.get(power, "starting"), power
