# SPDX-License-Identifier: Apache-2.0
"""How does the person at this host use the cluster? (state/<cluster>/admin.kubeconfig)"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudinit.families import in_url
from cloudinit.model import Cluster
from cloudinit.parts.admin import ADMINS
from cloudinit.pki import KeyPair, LeafSpec
from cloudinit.state import State
from kubekiln.files import remove_temporaries, write_atomic
from kubekiln.secret import Secret
from kubekiln.yamltext import dump

NAME = "admin.kubeconfig"


def render(cluster: Cluster, state: State) -> Secret:
    """Write a kubeconfig that stands alone, with two ways to the API.

    The current context, `<cluster>`, is for the port of this host by which local targets give it;
    `<cluster>-network` is for wherever the nodes' network can be reached from.
    """
    spec = LeafSpec("@host/admin", "kubernetes", "kubernetes-admin", ("client",), ADMINS)
    pair, authority = state.leaf(spec), state.authority("kubernetes")
    document = _document(
        cluster.name,
        servers={
            cluster.name: f"https://127.0.0.1:{cluster.api.host_port}",
            f"{cluster.name}-network": f"https://{in_url(cluster.api_host)}:{cluster.api.port}",
        },
        authority=authority.certificate,
        pair=pair,
    )
    return Secret(dump(document))


def write(directory: Path, kubeconfig: Secret) -> Path:
    """Put it beside the state, and remove what a write of it that was killed left."""
    path = directory / NAME
    remove_temporaries(path)
    write_atomic(path, kubeconfig.reveal(), mode=0o600)
    return path


def _document(
    name: str, *, servers: Mapping[str, str], authority: bytes, pair: KeyPair
) -> dict[str, Any]:
    """Join ways to the API, by the name of their context, with one user."""
    user = f"{name}-admin"
    trusted = {"certificate-authority-data": _base64(authority)}
    credential = {
        "client-certificate-data": _base64(pair.certificate),
        "client-key-data": _base64(pair.key.reveal()),
    }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": context, "cluster": {**trusted, "server": server}}
            for context, server in servers.items()
        ],
        "users": [{"name": user, "user": credential}],
        "contexts": [
            {"name": context, "context": {"cluster": context, "user": user}} for context in servers
        ],
        "current-context": name,
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
