# SPDX-License-Identifier: Apache-2.0
"""What is left of machines that are gone? Usually nothing: volumes and cards go with theirs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pipeline.targets.aws_calls import Api
from pipeline.targets.aws_images import tags_of
from pipeline.targets.aws_machines import CLUSTER_TAG, NODE_TAG, PAYLOAD_TAG
from pipeline.targets.platform import Instance

# Beginning of an id → what removes such a thing, and its argument.
_REMOVERS = {
    "vol-": ("delete_volume", "VolumeId"),
    "eni-": ("delete_network_interface", "NetworkInterfaceId"),
}
_REMAINS = (
    ("describe_volumes", "Volumes", "VolumeId"),
    ("describe_network_interfaces", "NetworkInterfaces", "NetworkInterfaceId"),
)


def remains(ec2: Api, wanted: list[dict[str, Any]]) -> Iterator[Instance]:
    """Find volumes and cards that lost their machine, each as what is left of one.

    A volume is made with its machine, in one request: one that is alone was in use.
    """
    filters = [*wanted, {"Name": "status", "Values": ["available"]}]
    for action, key, name in _REMAINS:
        for item in ec2.pages(action, key, Filters=filters):
            tags, one = tags_of(item), str(item[name])
            yield Instance(
                id=one, cluster=tags[CLUSTER_TAG], node=tags[NODE_TAG],
                payload=tags.get(PAYLOAD_TAG, ""), state="failed",
                detail="left by a machine that is gone",
                lone_disks=(one,) if one.startswith("vol-") else (),
            )  # fmt: skip


def of_each_node(found: Iterable[Instance]) -> dict[tuple[str, str], Instance]:
    """Join what is left of each machine."""
    nodes: dict[tuple[str, str], Instance] = {}
    for one in found:
        disks = nodes.get((one.cluster, one.node), one).lone_disks
        joined = tuple(dict.fromkeys((*disks, *one.lone_disks)))
        nodes[one.cluster, one.node] = replace(one, lone_disks=joined)
    return nodes


def remover(left: Instance) -> tuple[str, dict[str, str]]:
    """Say by which action, with which arguments, a volume or a card is removed."""
    action, argument = next(v for k, v in _REMOVERS.items() if left.id.startswith(k))
    return action, {argument: left.id}
