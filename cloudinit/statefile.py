# SPDX-License-Identifier: Apache-2.0
"""What does the file of a cluster's state look like, and is it whole?

One file, so that one rename replaces all of it. Its first line names the format and the hash of the
rest, which is JSON. At rest it may be encrypted as a whole (`stateseal.py`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloudinit.bootstraptoken import BootstrapToken
from cloudinit.pki import KeyPair
from kubekiln.errors import KubekilnError
from kubekiln.files import sha256_bytes
from kubekiln.secret import Secret

NAME = "state"
VERSION = 2
BACKUP_HINT = "restore the state from a backup"
_HEADER = re.compile(rb"kubekiln-state (\d+)(?: sha256:([0-9a-f]{64}))?\n")


class StateError(KubekilnError):
    """The state is damaged, foreign, locked by a key that isn't there, or of another format."""


@dataclass(frozen=True)
class Leaf:
    """A certificate issued before, and the digest of all that it depends on."""

    digest: str
    pair: KeyPair


@dataclass
class Document:
    """All secrets of a cluster."""

    cluster: str
    sealed_for: tuple[str, ...] = ()
    """Who can open it: recipients, or the word `passphrase`; nobody in particular if empty."""
    authorities: dict[str, KeyPair] = field(default_factory=dict)
    keys: dict[str, Secret] = field(default_factory=dict)
    leaves: dict[str, Leaf] = field(default_factory=dict)
    tokens: dict[str, BootstrapToken] = field(default_factory=dict)
    """Of the pools, by their names."""


def encode(document: Document) -> bytes:
    """Write a document; the same one gives the same bytes."""
    fields: dict[str, Any] = {
        "cluster": document.cluster,
        "sealed_for": document.sealed_for,
        "authorities": {name: _pair(pair) for name, pair in document.authorities.items()},
        "keys": {name: key.reveal_text() for name, key in document.keys.items()},
        "leaves": {
            name: {"digest": leaf.digest, **_pair(leaf.pair)}
            for name, leaf in document.leaves.items()
        },
        "tokens": {name: _token(token) for name, token in document.tokens.items()},
    }
    body = json.dumps(fields, sort_keys=True).encode() + b"\n"
    return f"kubekiln-state {VERSION} sha256:{sha256_bytes(body)}\n".encode() + body


def decode(content: bytes, *, path: Path, cluster: str) -> Document:
    """Read a document of this format; raises StateError for anything else, without showing it."""
    header = _HEADER.match(content)
    if header is None:
        raise StateError(f"{path.name} holds no state", where=str(path), hint=BACKUP_HINT)
    if int(header[1]) != VERSION:
        raise StateError(
            f"state format {int(header[1])} is not {VERSION}",
            where=str(path),
            hint="use the kubekiln that wrote it",
        )
    body = content[header.end() :]
    if header[2] != sha256_bytes(body).encode():
        raise StateError("the state is damaged", where=str(path), hint=BACKUP_HINT)
    fields = json.loads(body)
    if fields["cluster"] != cluster:
        raise StateError(
            f"this is the state of cluster {fields['cluster']}, not of {cluster}",
            where=str(path),
            hint="the name of a cluster is part of its identity: it can't be changed",
        )
    return Document(
        cluster=cluster,
        sealed_for=tuple(fields["sealed_for"]),
        authorities={name: _read_pair(pair) for name, pair in fields["authorities"].items()},
        keys={name: Secret(key) for name, key in fields["keys"].items()},
        leaves={
            name: Leaf(leaf["digest"], _read_pair(leaf)) for name, leaf in fields["leaves"].items()
        },
        # Younger than the format: a state without pools is as it was.
        tokens={name: _read_token(token) for name, token in fields.get("tokens", {}).items()},
    )


def _pair(pair: KeyPair) -> dict[str, str]:
    return {"key": pair.key.reveal_text(), "certificate": pair.certificate.decode()}


def _read_pair(fields: dict[str, str]) -> KeyPair:
    return KeyPair(Secret(fields["key"]), fields["certificate"].encode())


def _token(token: BootstrapToken) -> dict[str, str | int]:
    return {
        "id": token.token_id,
        "secret": token.secret.reveal_text(),
        "issued": int(token.issued.timestamp()),
        "expires": int(token.expires.timestamp()),
    }


def _read_token(fields: dict[str, Any]) -> BootstrapToken:
    issued, expires = (datetime.fromtimestamp(fields[key], UTC) for key in ("issued", "expires"))
    return BootstrapToken(fields["id"], Secret(fields["secret"]), issued, expires)
