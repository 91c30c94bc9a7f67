# SPDX-License-Identifier: Apache-2.0
"""What does another tool need to boot a cluster: which files, and which facts of each node?"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubekiln.channel import CHANNELS, DatasourceName, compress
from kubekiln.errors import ConfigError, Problem
from kubekiln.operations.exportfiles import Output
from kubekiln.operations.prepare import load
from kubekiln.operations.shipment import image_in, refuse_channel, specs_of
from kubekiln.paths import Project
from kubekiln.progress import say
from pipeline.targets.platform import DiskImage, FormatName, InstanceSpec


@dataclass(frozen=True)
class Shipment:
    """A cluster's image and nodes, as they are given to another tool."""

    cluster: str
    image: DiskImage
    nodes: tuple[InstanceSpec, ...]


def shipment_of(
    project: Project, cluster: str, wanted: FormatName, *, datasource: DatasourceName, who: str
) -> Shipment:
    """Bake the cluster's image (from the cache), and render its nodes.

    Raises ConfigError if the cluster expects its user-data by another way than `who` gives it.
    """
    plan = load(project, cluster)
    refuse_channel(plan, project.config_path("clusters", cluster), datasource, who=who)
    if plan.cluster.userdata.protect == "age":
        say("note: machines need their keys to the user-data by another way (docs/secrets.md)")
    image = image_in(project, plan, wanted)
    return Shipment(plan.cluster.name, image, tuple(specs_of(project, plan, image)))


def payload(user_data: Path, *, plain: bool) -> bytes:
    """Give what a tool hands on of a user-data: its gzip, or the text where it can't take that."""
    text = user_data.read_bytes()
    return text if plain else compress(text)


def payloads_of(nodes: Sequence[InstanceSpec], *, plain: bool) -> dict[str, bytes]:
    """Give the payload of each node, by its name."""
    return {node.node: payload(node.seed_dir / "user-data", plain=plain) for node in nodes}


def check_sizes(payloads: Mapping[str, bytes], platform: DatasourceName, *, plain: bool) -> None:
    """Raise ConfigError, naming every one, where payloads are more than a platform takes."""
    limit = CHANNELS[platform]
    problems = []
    for name, content in payloads.items():
        size = limit.measure(len(content))
        if limit.size is not None and size > limit.size:
            what = f"{name}: user-data is {size:,} bytes, {limit.title} takes {limit.size:,}"
            hint = "P-256 keys and more preloaded into the image make it smaller"
            problems.append(Problem(what, hint=_PLAIN_HINT if plain else hint))
    if problems:
        raise ConfigError.of(problems)


_PLAIN_HINT = "this tool sends it uncompressed: `kubekiln export terraform` sends gzip"


def node_files(output: Output, node: InstanceSpec) -> dict[str, str]:
    """Write a node's payloads; gives each one's path, by the name that other tools know it by."""
    encoded = base64.b64encode(node.user_data.reveal()) + b"\n"
    files: Mapping[str, tuple[str, bytes, bool]] = {
        "user_data_path": ("user-data/{}.yaml", (node.seed_dir / "user-data").read_bytes(), True),
        "meta_data_path": ("meta-data/{}.yaml", node.meta_data.reveal(), False),
        "network_config_path": ("network-config/{}.yaml", node.network_config.reveal(), False),
        "user_data_gzip_b64_path": ("user-data-gzip-b64/{}.txt", encoded, True),
        "seed_iso_path": ("seed/{}.iso", node.seed_iso.read_bytes(), True),
    }
    return {key: output.write(name.format(node.node), content, has_keys=has_keys)
            for key, (name, content, has_keys) in files.items()}  # fmt: skip


def node_facts(output: Output, node: InstanceSpec) -> dict[str, Any]:
    """Write a node's payloads, and say all that a machine for it must be."""
    return {
        "role": node.role,
        "payload": node.payload,
        "mac": node.macs[0],
        "macs": list(node.macs),
        "addresses": list(node.addresses),
        "cpus": node.cpus,
        "memory_mib": node.memory_mib,
        "disk_gib": node.disk_gib,
        "etcd_disk_gib": node.etcd_disk_gib or 0,
        **node_files(output, node),
    }


def image_facts(output: Output, image: DiskImage) -> dict[str, Any]:
    """Have the image in the directory, and say what it is."""
    return {
        "image_path": output.link(image.path),
        "image_format": image.format,
        "image_sha256": image.sha256,
        "image_virtual_size_bytes": image.virtual_size,
    }
