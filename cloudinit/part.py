# SPDX-License-Identifier: Apache-2.0
"""What does a part get and give? (Parts are the functions in `parts/`, one topic each.)"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from cloudinit.model import Cluster, Node
from cloudinit.nodepool import NodePool
from cloudinit.state import State
from kubekiln.contract import KubernetesContract
from kubekiln.files import sha256_bytes
from kubekiln.paths import Project

_HERE = Path(__file__).parent
_TEMPLATES = _HERE / "templates"

_JINJA = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)
_COMMENT = re.compile(r"^[ \t]*#.*\n", re.MULTILINE)
_UNIT_DIR = "/etc/systemd/system"


@dataclass(frozen=True)
class NodeFile:
    """A file that user-data puts on a node, and why it is there."""

    path: str
    content: bytes = field(repr=False)
    source: str
    """Where its content comes from: a path below cloudinit/, or a secret of the state."""
    keys: tuple[str, ...] = ()
    """The configuration keys that it depends on."""
    mode: int = 0o644
    owner: str = "root:root"
    part: str = ""
    """The part that gave it; set by the role."""

    @property
    def sha256(self) -> str:
        return sha256_bytes(self.content)


@dataclass(frozen=True)
class Part:
    """What one part adds to a node: files (units among them), and units to start."""

    files: tuple[NodeFile, ...]
    units: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """All that a part may know: the cluster, the node, the secrets, what the version does."""

    cluster: Cluster
    owner: Node | NodePool
    """Whose user-data it is: one machine's, or that of all machines of a pool."""
    state: State
    project: Project
    versions: Mapping[str, str]
    """Versions of the components that add-ons' images carry."""

    @property
    def node(self) -> Node:
        """The one machine that it is for; a part that asks for it has no place in a pool."""
        if not isinstance(self.owner, Node):
            raise AssertionError(f"{self.owner.name} is a pool: which of its machines is meant?")
        return self.owner

    @property
    def pool(self) -> NodePool:
        """The pool that it is for."""
        if not isinstance(self.owner, NodePool):
            raise AssertionError(f"{self.owner.name} is no pool")
        return self.owner

    @property
    def contract(self) -> KubernetesContract:
        return KubernetesContract.of(self.cluster.kubernetes)

    @property
    def own_api_url(self) -> str:
        """Where the API server of this very machine is."""
        return f"https://127.0.0.1:{self.cluster.api.port}"

    @property
    def api_url(self) -> str:
        """Where a component on this node reaches the API: its own balancer, if it has one."""
        if self.owner.role == "single":
            return self.own_api_url
        return f"https://127.0.0.1:{self.cluster.api.local_port}"


PartFunction = Callable[[Context], Part]


def from_template(
    path: str,
    view: Mapping[str, Any],
    *,
    keys: tuple[str, ...] = (),
    mode: int = 0o600,
    owner: str = "root:root",
    template: str | None = None,
) -> NodeFile:
    """Render the template that lies at `path` below templates/ (or at `template`)."""
    name = (template or path).lstrip("/")
    source = f"templates/{name}.j2"
    body = _JINJA.get_template(f"{name}.j2").render(view)
    return NodeFile(path, _content(path, source, keys, body), source, keys, mode, owner)


def from_static(
    path: str, *, keys: tuple[str, ...] = (), mode: int = 0o600, owner: str = "root:root"
) -> NodeFile:
    """Take the file that lies at `path` below templates/ as it is."""
    source = f"templates{path}"
    return NodeFile(path, _whole(path, source, keys), source, keys, mode, owner)


def unit(name: str, *, template: str | None = None) -> NodeFile:
    """Take a whole unit from units/ (there its name may be another, `template`).

    CIS 4.1.1 wants mode 0600, and systemd reads it so.
    """
    path, source = f"{_UNIT_DIR}/{name}", f"units/{template or name}"
    return NodeFile(path, _whole(path, source, ()), source, mode=0o600)


@functools.cache
def _whole(path: str, source: str, keys: tuple[str, ...]) -> bytes:
    """Read a file that is the same on every node, once."""
    return _content(path, source, keys, (_HERE / source).read_text())


def _content(path: str, source: str, keys: tuple[str, ...], body: str) -> bytes:
    """Say in the file where it comes from; the reasons stay there, since payloads are small.

    JSON has no comments.
    """
    if path.endswith(".json"):
        return body.encode()
    what = f"edit {', '.join(keys)}" if keys else "edit that"
    header = f"# Written by cloud-init from {source}; {what}, not this file.\n"
    return (header + _COMMENT.sub("", body)).encode()
