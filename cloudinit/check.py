# SPDX-License-Identifier: Apache-2.0
"""Is a rendered node sound, before anything of it is written?

A second look at the result itself, independent of the parts that made it: it reads the user-data
back as cloud-init will.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from cloudinit.keyplaces import holds_key, key_problems
from cloudinit.model import Cluster
from cloudinit.part import Context, NodeFile
from cloudinit.protect import NOTE_PATH
from cloudinit.userdata import MANIFEST_PATH, costs
from kubekiln.channel import CHANNELS, compress
from kubekiln.errors import ConfigError, Problem

_ALLOWED_KEYS = {
    "fqdn", "hostname", "manage_etc_hosts", "prefer_fqdn_over_hostname", "write_files"
}  # fmt: skip
_SECRET = re.compile(rb"^\s*(?:- )?secret:", re.MULTILINE)
_LARGEST_SHOWN = 5
# The parser written in C is ten times as fast; PyYAML is built without it on some systems.
_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_userdata(
    context: Context, files: tuple[NodeFile, ...], userdata: bytes, attached: bytes
) -> int:
    """Raise ConfigError with all problems of a node's payload.

    `attached` is what the platform is given of `userdata`; gives its compressed size.
    """
    size_gzip = len(compress(attached))
    problems = [
        *(Problem(text) for text in structure_problems(userdata)),
        *(Problem(text) for text in secrecy_problems(files)),
        *(Problem(text) for text in key_problems(context, files)),
        *(Problem(text) for text in exposure_problems(context, attached)),
        *size_problems(context, files, size_gzip),
    ]
    if problems:
        raise ConfigError.of(problems)
    return size_gzip


def structure_problems(userdata: bytes) -> Iterator[str]:
    """Read the document back: only the keys we use, each file once, the manifest last and true."""
    if not userdata.startswith(b"#cloud-config\n"):
        yield "user-data does not begin with the line #cloud-config"
        return
    document = yaml.load(userdata, Loader=_Loader)
    for key in sorted(document.keys() - _ALLOWED_KEYS):
        yield f"user-data has the key {key}"
    entries: list[dict[str, Any]] = document["write_files"]
    paths = [entry["path"] for entry in entries]
    for path in sorted({p for p in paths if paths.count(p) > 1}):
        yield f"user-data writes {path} twice"
    for path in paths:
        if not path.startswith("/etc/") and not path.startswith("/var/lib/kubelet/"):
            yield f"user-data writes {path}, which is neither configuration nor the kubelet's"
    if paths[-1] != MANIFEST_PATH:
        yield f"the last file is {paths[-1]}, not {MANIFEST_PATH}"
        return
    listed = [file["path"] for file in json.loads(entries[-1]["content"])["files"]]
    if listed != paths[:-1]:
        yield "the manifest does not list exactly the files before it"


def secrecy_problems(files: tuple[NodeFile, ...]) -> Iterator[str]:
    """Whatever looks like a secret is readable by its owner only."""
    for file in files:
        if file.mode & 0o077 and _is_secret(file.content):
            yield f"{file.path} holds a secret and has mode {file.mode:04o}"


def exposure_problems(context: Context, attached: bytes) -> Iterator[str]:
    """Where user-data is protected, what the platform is given holds no key, and is small."""
    if context.cluster.userdata.protect == "none":
        return
    document = yaml.load(attached, Loader=_Loader)
    for key in sorted(document.keys() - _ALLOWED_KEYS):
        yield f"protected user-data has the key {key}"
    for entry in document["write_files"]:
        if _is_secret(entry["content"].encode()):
            yield f"protected user-data of {context.owner.name} shows a secret in {entry['path']}"
    if document["write_files"][-1]["path"] != NOTE_PATH:
        yield f"the last file of protected user-data is not {NOTE_PATH}"


def _is_secret(content: bytes) -> bool:
    return holds_key(content) or _SECRET.search(content) is not None


def size_problems(
    context: Context, files: tuple[NodeFile, ...], size_gzip: int
) -> Iterator[Problem]:
    """The payload fits the platform that the cluster is for."""
    cluster, channel = context.cluster, CHANNELS[context.cluster.datasource]
    size = channel.measure(size_gzip)
    if channel.size is None or size <= channel.size:
        return
    largest = sorted(costs(context, files), key=lambda cost: cost[1], reverse=True)
    shown = ", ".join(
        f"{file.path} {cost:,} B ({100 * cost / size_gzip:.0f} %)"
        for file, cost in largest[:_LARGEST_SHOWN]
    )
    yield Problem(
        f"user-data of {context.owner.name} has {size:,} B ({channel.counted}), "
        f"over the {channel.size:,} B of {channel.title}",
        where=f"{cluster.name}: datasource {cluster.datasource}",
        hint=f"largest in it, compressed: {shown}; what helps: {'; '.join(_remedies(cluster))}",
    )


def _remedies(cluster: Cluster) -> Iterator[str]:
    if cluster.pki.algorithm.startswith("rsa"):
        yield "P-256 keys, a quarter of the size (pki.algorithm: p256)"
    if cluster.addons:
        yield "fewer add-ons in the user-data (apply large ones later, or from an element)"
    yield "a seed disk, where the platform attaches one (datasource: nocloud)"
    if cluster.userdata.protect != "url":
        yield "user-data that its machine fetches once (userdata.protect: url)"
