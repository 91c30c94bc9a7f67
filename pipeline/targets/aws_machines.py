# SPDX-License-Identifier: Apache-2.0
"""What is asked of EC2 for one node, and what do we read of its answers? Nothing is asked here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.aws_images import ARCHITECTURES, ROOT_DEVICE, tag_list, tags_of
from pipeline.targets.aws_settings import GP3_IOPS, GP3_IOPS_PER_MIB, Settings
from pipeline.targets.platform import (
    TAG_PREFIX,
    DiskImage,
    Instance,
    InstanceSpec,
    InstanceState,
    RemoteImage,
)
from pipeline.targets.unfit import ONE_CARD, more_cards, raised_by, smaller_disk, too_large

CLUSTER_TAG = f"{TAG_PREFIX}-cluster"
NODE_TAG = f"{TAG_PREFIX}-node"
PAYLOAD_TAG = f"{TAG_PREFIX}-payload"

_GIB = 1024
# https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html
_IOPS_PER_GIB = {"gp3": 500, "io1": 50, "io2": 1000}
_LEAST_IOPS = {"gp3": GP3_IOPS, "io1": 100, "io2": 100}
# The first that EC2 recommends for a further volume; the machine sees an NVMe disk.
_ETCD_DEVICE = "/dev/sdf"
_FAMILIES: Final[Mapping[str, tuple[str, str, str, str]]] = {
    # Burstable ones for the smallest; then 2, 4 and 8 GiB of memory for each vCPU.
    "x86_64": ("t3", "c7i", "m7i", "r7i"),
    "arm64": ("t4g", "c7g", "m7g", "r7g"),
}
_BURSTABLE = (("micro", 2, 1), ("small", 2, 2))
_SIZES = (("large", 2), ("xlarge", 4), ("2xlarge", 8), ("4xlarge", 16), ("8xlarge", 32),
          ("12xlarge", 48), ("16xlarge", 64))  # fmt: skip

STATES: Final[Mapping[str, InstanceState]] = {
    "pending": "starting",
    "running": "running",
    "stopping": "stopped",
    "stopped": "stopped",
    # Still in the way of another one with its address; `delete` waits until it isn't.
    "shutting-down": "failed",
}


@dataclass(frozen=True)
class Network:
    """Where machines get their first card."""

    subnet: str
    zone: str
    ranges: tuple[IPv4Network | IPv6Network, ...]
    groups: tuple[str, ...]

    @classmethod
    def of(cls, subnet: Mapping[str, Any], groups: Sequence[str]) -> Network:
        """Read what EC2 says of a subnet."""
        six = [s["Ipv6CidrBlock"] for s in subnet.get("Ipv6CidrBlockAssociationSet", ())]
        found = tuple(ip_network(cidr) for cidr in (subnet["CidrBlock"], *six))
        return cls(str(subnet["SubnetId"]), str(subnet["AvailabilityZone"]), found, tuple(groups))


def types_of(architecture: str) -> Iterator[tuple[str, int, int]]:
    """List what `instance_type_for` chooses from: name, vCPUs, MiB; the cheaper ones first."""
    burstable, *families = _FAMILIES[architecture]
    for size, cpus, gib in _BURSTABLE:
        yield f"{burstable}.{size}", cpus, gib * _GIB
    for size, cpus in _SIZES:
        for family, gib_per_cpu in zip(families, (2, 4, 8), strict=True):
            yield f"{family}.{size}", cpus, cpus * gib_per_cpu * _GIB


def instance_type_for(cpus: int, memory_mib: int, architecture: str) -> str:
    """Give the first type that has at least so much; raises KubekilnError if none has."""
    for name, has_cpus, has_mib in types_of(architecture):
        if has_cpus >= cpus and has_mib >= memory_mib:
            return name
    raise KubekilnError(
        f"no instance type of our table has {cpus} CPUs and {memory_mib} MiB",
        hint="name one: instance_type in the target's file",
    )


def refusals(
    spec: InstanceSpec, image: DiskImage, network: Network, settings: Settings
) -> Iterator[Problem]:
    """Say what of a node EC2 can't do."""
    yield from too_large(spec, "ec2")
    yield from more_cards(spec, 1, ONE_CARD)
    yield from smaller_disk(spec, image)
    if not settings.instance_type:
        wanted = spec.cpus, spec.memory_mib, ARCHITECTURES[image.architecture]
        yield from raised_by(lambda: instance_type_for(*wanted))
    for address in spec.addresses if settings.keep_addresses else ():
        if not any(_is_free(ip_address(address), cidr) for cidr in network.ranges):
            shown = ", ".join(map(str, network.ranges))
            yield Problem(
                f"{spec.node}'s address {address} is none that {network.subnet} ({shown}) can give",
                hint="take addresses of the subnet into the cluster's file, but not its first four "
                "or its last; or `keep_addresses: false`, if nothing relies on them",
            )


def _is_free(address: IPv4Address | IPv6Address, cidr: IPv4Network | IPv6Network) -> bool:
    """Tell whether a machine may have it: AWS keeps the first four of a subnet, and the last."""
    first, last = int(cidr.network_address), int(cidr.broadcast_address)
    return address.version == cidr.version and first + 4 <= int(address) < last


def run_request(
    spec: InstanceSpec, image: RemoteImage, network: Network, settings: Settings, kind: str
) -> dict[str, Any]:
    """Describe the machine to RunInstances; all but the ClientToken."""
    tags = tag_list({**settings.tags, "Name": spec.name, **spec.tags})
    request: dict[str, Any] = {
        "ImageId": image.id,
        "InstanceType": kind,
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": spec.user_data.reveal(),
        "NetworkInterfaces": [_card(spec, network, settings)],
        "BlockDeviceMappings": [
            {"DeviceName": device, "Ebs": _volume(gib, settings)}
            for device, gib in ((ROOT_DEVICE, spec.disk_gib), (_ETCD_DEVICE, spec.etcd_disk_gib))
            if gib
        ],
        # A pod is one hop further than its machine: what it asks for dies on the way back.
        "MetadataOptions": {
            "HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1,
        },
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tags}
            for kind in ("instance", "volume", "network-interface")
        ],
    }  # fmt: skip
    if settings.instance_profile:
        key = "Arn" if settings.instance_profile.startswith("arn:") else "Name"
        request["IamInstanceProfile"] = {key: settings.instance_profile}
    return request


def client_token(request: Mapping[str, Any], generation: int) -> str:
    """Make the token of a request: the same for the same, whoever asks and whenever.

    EC2 remembers the tokens of machines that were terminated, and refuses to make them again: then
    it is the next generation's turn. 64 characters are allowed.
    """
    shown = {**request, "UserData": hashlib.sha256(request["UserData"]).hexdigest()}
    content = f"{generation} {json.dumps(shown, sort_keys=True)}"
    return hashlib.sha256(content.encode()).hexdigest()


def instance_of(found: Mapping[str, Any], *, wants_check: bool) -> Instance:
    """Read a machine of ours out of DescribeInstances."""
    tags, name = tags_of(found), found["State"]["Name"]
    state, detail = STATES[name], f"{found['InstanceType']}, {name}"
    has_check = found.get("SourceDestCheck", wants_check)
    if state == "running" and has_check and not wants_check:
        # Not `failed`: it may be in use for long. `start` turns it off, also on one that runs.
        state, detail = "stopped", f"{detail}, with its source/destination check on"
    return Instance(
        id=str(found["InstanceId"]),
        cluster=tags[CLUSTER_TAG],
        node=tags[NODE_TAG],
        payload=tags.get(PAYLOAD_TAG, ""),
        state=state,
        addresses=addresses_of(found),
        detail=detail,
    )


def addresses_of(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Read a machine's addresses in its subnet."""
    cards = found.get("NetworkInterfaces", ())
    six = [a["Ipv6Address"] for card in cards for a in card.get("Ipv6Addresses", ())]
    return tuple(a for a in (found.get("PrivateIpAddress"), *six) if a)


def _card(spec: InstanceSpec, network: Network, settings: Settings) -> dict[str, Any]:
    card: dict[str, Any] = {
        "DeviceIndex": 0,
        "SubnetId": network.subnet,
        "Groups": list(network.groups),
        "DeleteOnTermination": True,
    }
    if settings.public_address is not None:
        card["AssociatePublicIpAddress"] = settings.public_address
    if not settings.keep_addresses:
        return card
    four = [a for a in spec.addresses if ip_address(a).version == 4]
    six = [a for a in spec.addresses if ip_address(a).version == 6]
    if four:
        card["PrivateIpAddress"] = four[0]
    if six:
        card["Ipv6Addresses"] = [{"Ipv6Address": address} for address in six]
    return card


def _volume(gib: int, settings: Settings) -> dict[str, Any]:
    volume: dict[str, Any] = {
        "VolumeSize": gib,
        "VolumeType": settings.volume_type,
        "Encrypted": settings.encrypted,
        "DeleteOnTermination": True,
    }
    iops = _iops(gib, settings)
    for key, value in (("Iops", iops), ("Throughput", _throughput(iops, settings)),
                       ("KmsKeyId", settings.kms_key)):  # fmt: skip
        if value is not None:
            volume[key] = value
    return volume


def _iops(gib: int, settings: Settings) -> int | None:
    """Give as many as wanted, but no more than a volume of this size may have."""
    if settings.volume_iops is None:
        return None
    most = _IOPS_PER_GIB[settings.volume_type] * gib
    return min(settings.volume_iops, max(_LEAST_IOPS[settings.volume_type], most))


def _throughput(iops: int | None, settings: Settings) -> int | None:
    """Give as much as wanted, but no more than a volume of so many IOPS may have."""
    if settings.volume_throughput is None:
        return None
    return min(settings.volume_throughput, (iops or GP3_IOPS) // GP3_IOPS_PER_MIB)
