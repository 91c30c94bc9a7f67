# SPDX-License-Identifier: Apache-2.0
"""How is a cluster given to Ansible: as an inventory, with a playbook that boots it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import yaml

from kubekiln.channel import DatasourceName
from kubekiln.operations.export import (
    Shipment,
    check_sizes,
    image_facts,
    node_facts,
    payloads_of,
)
from kubekiln.operations.exportfiles import Output
from pipeline.targets.platform import InstanceSpec

_HEADER = "# Written by `kubekiln export ansible`, anew each time.\n---\n"
_PREFIX = "kubekiln_"
_FACTS, _INVENTORY = "group_vars/kubekiln/kubekiln.yaml", "inventory.yaml"


@dataclass(frozen=True)
class Collection:
    """What the modules of a collection are given."""

    datasource: DatasourceName
    has_image: bool
    plain: bool
    """Whether its module encodes user-data itself, so that it can't be given gzip."""


PROVIDERS: Mapping[str, Collection] = MappingProxyType(
    {
        "aws": Collection("ec2", has_image=False, plain=False),
        "libvirt": Collection("nocloud", has_image=True, plain=False),
        "openstack": Collection("openstack", has_image=True, plain=True),
    }
)


def write_ansible(output: Output, shipment: Shipment, provider: str) -> None:
    """Write inventory, variables and files and, once, a playbook with your own variables."""
    output.check(_FACTS, _INVENTORY)
    chosen = PROVIDERS[provider]
    payloads = payloads_of(shipment.nodes, plain=chosen.plain)
    check_sizes(payloads, chosen.datasource, plain=chosen.plain)
    facts: dict[str, Any] = {"cluster": shipment.cluster, "image_name": shipment.image.remote_name}
    if chosen.has_image:
        facts |= image_facts(output, shipment.image)
    output.write(_FACTS, _dump(_prefixed(facts)))
    output.write(_INVENTORY, _dump(_inventory(output, shipment)))
    output.examples(f"ansible/{provider}")
    output.finish()


def _inventory(output: Output, shipment: Shipment) -> dict[str, Any]:
    """Lay hosts below a group for each role, so that `--limit` and plays can choose."""
    groups: dict[str, Any] = {}
    for node in shipment.nodes:
        group = groups.setdefault(_PREFIX + node.role.replace("-", "_"), {"hosts": {}})
        facts = {**node_facts(output, node), **_for_neutron(node)}
        group["hosts"][node.node] = _prefixed(facts)
    return {"all": {"children": {"kubekiln": {"children": groups}}}}


def _for_neutron(node: InstanceSpec) -> dict[str, Any]:
    """Say a node's cards and addresses in the words of OpenStack's modules."""
    further = [f"{node.name}-{number}" for number in range(1, len(node.macs))]
    return {
        "ports": [{"port-name": name} for name in (node.name, *further)],
        "fixed_ips": [{"ip_address": address} for address in node.addresses],
    }


def _prefixed(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {_PREFIX + key: value for key, value in facts.items()}


def _dump(content: Mapping[str, Any]) -> str:
    return _HEADER + yaml.safe_dump(content, sort_keys=False, default_flow_style=False)
