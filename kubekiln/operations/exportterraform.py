# SPDX-License-Identifier: Apache-2.0
"""How is a cluster given to Terraform or OpenTofu: as variables with the files they name?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kubekiln.channel import DatasourceName
from kubekiln.operations.export import (
    Shipment,
    check_sizes,
    image_facts,
    node_facts,
    payloads_of,
)
from kubekiln.operations.exportfiles import Output

_VARIABLES = "kubekiln.auto.tfvars.json"


@dataclass(frozen=True)
class Provider:
    """What an example module expects."""

    datasource: DatasourceName
    has_image: bool
    """Whether the module brings the image there itself."""
    state: str
    """What Terraform's state holds of the user-data."""


PROVIDERS: Mapping[str, Provider] = MappingProxyType(
    {
        "aws": Provider("ec2", has_image=False, state="all of each node's user-data"),
        "libvirt": Provider("nocloud", has_image=True, state="where the seeds are"),
        # The provider's schema before 0.9 was another one.
        "libvirt-0.8": Provider("nocloud", has_image=True, state="where the seeds are"),
        "openstack": Provider(
            "openstack", has_image=True,
            state="a hash of each node's user-data (plan files: all of it)",
        ),
    }
)  # fmt: skip


def write_terraform(output: Output, shipment: Shipment, provider: str) -> None:
    """Write variables, files and, once, an example module."""
    output.check(_VARIABLES)
    chosen = PROVIDERS[provider]
    check_sizes(payloads_of(shipment.nodes, plain=False), chosen.datasource, plain=False)
    variables = {
        "cluster": shipment.cluster,
        **(image_facts(output, shipment.image) if chosen.has_image else {}),
        "nodes": {node.node: node_facts(output, node) for node in shipment.nodes},
    }
    output.write(_VARIABLES, json.dumps(variables, indent=2) + "\n", has_keys=True)
    output.examples(f"terraform/{provider}")
    output.finish()
