# SPDX-License-Identifier: Apache-2.0
"""What is given to a platform that must not read a node's keys, and what goes another way?

The platform gets the node's name, its network and how to come by the rest: an encrypted file, or
the address where it is fetched once. The rest is what user-data would else write, as JSON, which
the image's activation writes instead of cloud-init. Everything follows from the state and the
content: rendering again gives the same bytes, and another content has another address.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from cloudinit import agefile
from cloudinit.families import IPAddress
from cloudinit.model import Cluster
from cloudinit.part import Context, NodeFile
from cloudinit.pki import LeafSpec, validity
from cloudinit.seed import build_iso
from cloudinit.state import DELIVERY, State
from cloudinit.userdata import render_userdata
from kubekiln.channel import KEY_CREDENTIAL, compress
from kubekiln.files import sha256_bytes
from kubekiln.secret import Secret

SCHEMA = 1
NOTE_PATH = "/etc/kubekiln/protected.json"
SEALED_PATH = "/etc/kubekiln/user-data.age"
# What the image looks for, beside the credential; of ISO 9660, so in capitals.
KEY_LABEL = "KUBEKILN"
REST = "rest"
"""File of build/keys that `kubekiln serve` gives out."""
_SMBIOS = f"io.systemd.credential:{KEY_CREDENTIAL}="
# The network must be there before the rest is; it holds no secret.
_IN_CLEAR = "network"


@dataclass(frozen=True)
class Protected:
    """One machine's user-data in two halves."""

    userdata: bytes
    """What the platform is given."""
    keys: Mapping[str, bytes]
    """Files of build/keys/<cluster>/<node>: what the machine gets another way."""


def prepare(cluster: Cluster, state: State) -> None:
    """Make the secrets that all machines' halves follow from, before machines are rendered."""
    if cluster.userdata.protect != "none":
        state.delivery_key()
    if cluster.userdata.protect == "url":
        state.leaf(server_spec(cluster))


def protect(context: Context, files: tuple[NodeFile, ...], userdata: bytes) -> Protected:
    """Divide a machine's user-data as its cluster wants it; `none` divides nothing."""
    how = context.cluster.userdata.protect
    if how == "none":
        return Protected(userdata, {})
    rest = pack(files)
    note, keys, sealed = _fetched(context, rest) if how == "url" else _sealed(context, rest)
    clear = tuple(file for file in files if file.part == _IN_CLEAR)
    document = {
        "schema": SCHEMA,
        "cluster": context.cluster.name,
        "owner": context.owner.name,
        "sha256": sha256_bytes(rest),
        **note,
    }
    text = json.dumps(document, indent=1) + "\n"
    told = NodeFile(NOTE_PATH, text.encode(), "protect.py", ("userdata.protect",), 0o600)
    return Protected(render_userdata(context, (*clear, *sealed, told)), keys)


def pack(files: tuple[NodeFile, ...]) -> bytes:
    """Give all files in one, in the order in which they are to be written, compressed."""
    entries = [
        {"path": f.path, "mode": f"{f.mode:04o}", "owner": f.owner, "content": f.content.decode()}
        for f in files
    ]
    return compress(json.dumps({"files": entries}, separators=(",", ":")).encode())


def token_of(state: State, owner: str, rest_sha256: str) -> Secret:
    """Give the secret part of the URL at which a machine fetches this content."""
    derived = agefile.derive(state.delivery_key(), b"url", owner.encode(), rest_sha256.encode())
    return Secret(base64.urlsafe_b64encode(derived).rstrip(b"="))


def server_spec(cluster: Cluster) -> LeafSpec:
    """Describe the certificate of `kubekiln serve`."""
    host = urlsplit(str(cluster.userdata.server)).hostname or ""
    address = _as_address(host)
    return LeafSpec(
        "@host/serve",
        DELIVERY,
        "kubekiln-serve",
        ("server",),
        dns_names=() if address else (host,),
        addresses=(address,) if address else (),
    )


def _sealed(
    context: Context, rest: bytes
) -> tuple[dict[str, object], dict[str, bytes], tuple[NodeFile, ...]]:
    owner = context.owner.name
    key = context.state.delivery_key()
    scalar = agefile.derive(key, b"age identity", owner.encode())
    sealed = agefile.encrypt(rest, scalar=scalar, key=key)
    file = NodeFile(SEALED_PATH, sealed, "protect.py", ("userdata.protect",), mode=0o600)
    identity = agefile.identity_text(scalar).reveal()
    keys = {
        KEY_CREDENTIAL: identity + b"\n",
        "key.iso": build_iso({KEY_CREDENTIAL: identity + b"\n"}, label=KEY_LABEL),
        # For QEMU's `-smbios type=11,path=…` and its like.
        "smbios": _SMBIOS.encode() + identity,
    }
    return {"protect": "age"}, keys, (file,)


def _fetched(
    context: Context, rest: bytes
) -> tuple[dict[str, object], dict[str, bytes], tuple[NodeFile, ...]]:
    state = context.state
    authority = state.authority(DELIVERY).certificate
    leaf = state.leaf(server_spec(context.cluster)).certificate
    token = token_of(state, context.owner.name, sha256_bytes(rest))
    note = {
        "protect": "url",
        "url": f"{context.cluster.userdata.server}/v1/{token.reveal_text()}",
        "ca": authority.decode(),
        # A clock that is behind would find the server's certificate not valid yet.
        "valid_from": int(max(validity(c)[0] for c in (authority, leaf)).timestamp()),
    }
    return note, {REST: rest}, ()


def _as_address(host: str) -> IPAddress | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
