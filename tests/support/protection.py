# SPDX-License-Identifier: Apache-2.0
"""How is a cluster protected in tests, and what does its machine read of what it gets?"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pyrage
import yaml

from cloudinit.protect import REST, SEALED_PATH
from cloudinit.rendered import RenderedNode
from kubekiln.paths import Project

AGE: dict[str, Any] = {"userdata": {"protect": "age"}}
URL: dict[str, Any] = {"userdata": {"protect": "url", "server": "https://10.80.0.5:8443"}}


def written(node: RenderedNode) -> dict[str, dict[str, Any]]:
    """What cloud-init would write, by path."""
    return {e["path"]: e for e in yaml.safe_load(node.user_data.read_bytes())["write_files"]}


def keys_of(root: Path, owner: str = "lab-1") -> Path:
    return Project(root).keys_dir / "lab" / owner


def unsealed(armored: str, identity: str) -> bytes:
    raw = base64.b64decode("".join(armored.splitlines()[1:-1]))
    opened: bytes = pyrage.decrypt(raw, [pyrage.x25519.Identity.from_str(identity.strip())])
    return opened


def rest_of(root: Path, node: RenderedNode) -> bytes:
    """What the machine gets, as it would."""
    files = written(node)
    if SEALED_PATH not in files:
        return (keys_of(root) / REST).read_bytes()
    identity = (keys_of(root) / "kubekiln.age-key").read_text()
    return unsealed(files[SEALED_PATH]["content"], identity)


POOL: dict[str, Any] = {
    "nodes": [{"name": "m", "role": "master", "address": "10.80.0.11"}],
    "pools": [{"name": "batch", "addresses": "10.80.0.128/25", "max_nodes": 9}],
}
