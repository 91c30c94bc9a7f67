# SPDX-License-Identifier: Apache-2.0
"""How do a node's files become user-data and meta-data?

`#cloud-config` with `write_files` and the host's name: no command, no shell. What cloud-init writes
is then checked against the manifest by the image's activation (docs/node.md).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import yaml

from cloudinit.credentials import CA_PATH, kubelet_pair
from cloudinit.networkconfig import Dumper
from cloudinit.nodepool import NodePool
from cloudinit.part import Context, NodeFile, Part, from_template
from cloudinit.pki import validity
from kubekiln.channel import compress

SCHEMA = 1
MANIFEST_PATH = "/etc/kubekiln/node.json"
_ROLE_DROPIN = "/etc/systemd/system/kubekiln.target.d/10-role.conf"
# Hashes don't compress: half of each saves a kilobyte. 128 bits are plenty against damage, and who
# could forge a file could as well rewrite the manifest.
_DIGITS = 32
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_DEFAULT_MODE = 0o644
_DEFAULT_OWNER = "root:root"


def node_files(context: Context, composed: Part) -> tuple[NodeFile, ...]:
    """Add to the parts' files the one that starts their units, and last the manifest of all."""
    dropin = from_template(
        _ROLE_DROPIN,
        {"units": " ".join(composed.units)},
        keys=("nodes.role", *(("network.allow_metadata",) if context.owner.runs_pods else ())),
        mode=0o600,
    )
    files = (*composed.files, _of_part(dropin))
    return (*files, _of_part(_manifest(context, files, composed.units)))


def render_userdata(context: Context, files: tuple[NodeFile, ...]) -> bytes:
    """Write `#cloud-config`; the same files give the same bytes."""
    lines = [
        "#cloud-config",
        *_name_of(context),
        "prefer_fqdn_over_hostname: false",
        "manage_etc_hosts: localhost",
        "write_files:",
        *(_entry(file) for file in files),
    ]
    return ("\n".join(lines) + "\n").encode()


def costs(context: Context, files: tuple[NodeFile, ...]) -> list[tuple[NodeFile, int]]:
    """Give, for each file, the bytes by which the compressed user-data would be smaller."""
    whole = len(compress(render_userdata(context, files)))
    return [
        (file, whole - len(compress(render_userdata(context, files[:i] + files[i + 1 :]))))
        for i, file in enumerate(files)
    ]


def _name_of(context: Context) -> list[str]:
    """Name the machine; those of a pool have the names that the platform's meta-data gives them."""
    owner = context.owner
    if isinstance(owner, NodePool):
        return []
    full = f"{owner.name}.{context.cluster.network.domain}"
    # In quotes: YAML would read 001 as a number, and a machine be called 1.
    return [f'hostname: "{owner.name}"', f'fqdn: "{full}"']


def render_metadata(cluster: str, node: str, userdata: bytes) -> bytes:
    """Write meta-data; another user-data is another instance."""
    digest = hashlib.sha256(userdata).hexdigest()[:12]
    document = {
        "instance-id": f"{cluster}-{node}-{digest}",
        "local-hostname": node,
        # Files are written before the network starts, which then has its final configuration at
        # once; otherwise cloud-init would wait for a network that it doesn't need.
        "dsmode": "local",
    }
    return yaml.dump(document, Dumper=Dumper, sort_keys=False).encode()


def _manifest(context: Context, files: tuple[NodeFile, ...], units: tuple[str, ...]) -> NodeFile:
    valid_from, valid_until = _certificates_last(files)
    document = {
        "schema": SCHEMA,
        "cluster": context.cluster.name,
        **_identity(context),
        "role": context.owner.role,
        "kubernetes": context.cluster.kubernetes,
        "units": list(units),
        "files": [
            {
                "path": f.path,
                "mode": f"{f.mode:04o}",
                "owner": f.owner,
                "sha256": f.sha256[:_DIGITS],
            }
            for f in files
        ],
        "valid_from": valid_from,
        "valid_until": valid_until,
        "phone_home": context.cluster.phone_home,
        "report": _questions(context),
    }
    # A pool's machine has no address that is its own before it boots: it waits for one in the
    # pool's range (kubekiln_node/joining.py).
    if context.cluster.network.addressing == "dhcp" and not isinstance(context.owner, NodePool):
        document["lease"] = [str(context.node.address)]
    text = json.dumps(document, separators=(",", ":")).replace('{"path"', '\n{"path"') + "\n"
    keys = (
        "name", "kubernetes", "network.addressing", "network.allow_metadata", "nodes.name",
        "nodes.role", "phone_home", "pki.ca_days", "pki.leaf_days",
    )  # fmt: skip
    return NodeFile(MANIFEST_PATH, text.encode(), "userdata.py", keys, mode=0o600)


def _identity(context: Context) -> dict[str, Any]:
    """Say which machine it is for, or which ones, and until when they may join."""
    owner = context.owner
    if not isinstance(owner, NodePool):
        return {"node": owner.name}
    token = context.state.token(owner.name, hours=owner.token_ttl_hours)
    pool = {
        "name": owner.name,
        "prefix": owner.name_prefix,
        "addresses": str(owner.addresses),
        "token_id": token.token_id,
        "token_expires": int(token.expires.timestamp()),
    }
    return {"pool": pool}


def _questions(context: Context) -> dict[str, str | int]:
    """Give what the image's report asks to know how far the boot is."""
    questions: dict[str, str | int] = {"etcd": "127.0.0.1:2379"}
    if context.owner.runs_pods:
        cert, key = kubelet_pair(context)
        questions |= {"server": context.api_url, "ca": CA_PATH, "cert": cert, "key": key}
        if isinstance(context.owner, NodePool):
            # A machine that is refused shall say so soon: its kubelet's log has the reason.
            questions["timeout_s"] = 120
    elif context.owner.role == "lb":
        questions |= {"server": context.own_api_url, "ca": CA_PATH, "cert": "", "key": ""}
    else:
        questions |= {"server": ""}
    return questions


def _certificates_last(files: tuple[NodeFile, ...]) -> tuple[int, int]:
    """Give from when until when every certificate of a node is valid, in seconds since 1970."""
    spans = [validity(f.content) for f in files if f.content.startswith(_CERTIFICATE)]
    latest_start = max(start for start, _ in spans)
    return int(latest_start.timestamp()), int(min(end for _, end in spans).timestamp())


def _of_part(file: NodeFile) -> NodeFile:
    return NodeFile(
        file.path, file.content, file.source, file.keys, file.mode, file.owner, part="userdata"
    )


def _entry(file: NodeFile) -> str:
    lines = [f"- path: {file.path}"]
    if file.mode != _DEFAULT_MODE:
        lines.append(f"  permissions: '{file.mode:04o}'")
    if file.owner != _DEFAULT_OWNER:
        lines.append(f"  owner: {file.owner}")
    return "\n".join([*lines, f"  content: {_scalar(file.content.decode())}"])


def _scalar(text: str) -> str:
    """Write a file's content as it reads where YAML's literal block can, else quoted."""
    plain = text.endswith("\n") and not text.startswith((" ", "\n")) and not text.endswith("\n\n")
    lines = text.rstrip("\n").split("\n")
    if plain and all(line.isprintable() for line in lines):
        return "|\n" + "\n".join(f"    {line}" if line.strip() else line for line in lines)
    return json.dumps(text)
