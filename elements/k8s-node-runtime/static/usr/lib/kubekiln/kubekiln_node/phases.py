# SPDX-License-Identifier: Apache-2.0
"""Which phases does this node's role go through, and how is each one recognised?"""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple

from kubekiln_node.api import Answer, client_context, get
from kubekiln_node.pool import has_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubekiln_node.manifest import Manifest

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
BOOT_ID_PATH = "/proc/sys/kernel/random/boot_id"
ADDONS_UNIT = "kubekiln-addons.service"


class Phase(NamedTuple):
    """A step of the boot and the question whether it has been reached."""

    name: str
    reached: Callable[[], bool]


class ApiView:
    """The API server as this node's kubelet sees it (the credential may be late on disk)."""

    def __init__(self, manifest: Manifest, boot_id: str) -> None:
        self._node = manifest.node
        self._boot_id = boot_id
        self._report = {key: str(value) for key, value in manifest.report.items()}
        self._context: ssl.SSLContext | None = None

    def is_serving(self) -> bool:
        """Ask whether it answers this node, which needs no RBAC rule to ask for itself.

        Not /readyz: until the server's own rules are there it tells a node nothing of its health. A
        machine that is no node asks for that, as anybody may.
        """
        if not self._report["cert"]:
            return self._get("/readyz").status == 200
        return self._get(self._node_path).status in (200, 404)

    def has_node(self) -> bool:
        """Ask whether this node's kubelet has registered it since the machine booted."""
        return is_of_this_boot(self._get(self._node_path).json(), self._boot_id)

    def is_node_ready(self) -> bool:
        """Ask whether this node's Ready condition is True."""
        node = self._get(self._node_path).json()
        return is_of_this_boot(node, self._boot_id) and node_is_ready(node)

    @property
    def _node_path(self) -> str:
        return f"/api/v1/nodes/{self._node}"

    def _get(self, path: str) -> Answer:
        context = self._context or self._load()
        return get(self._report["server"], path, context) if context else Answer(0, b"")

    def _load(self) -> ssl.SSLContext | None:
        report = self._report
        try:
            self._context = client_context(ca=report["ca"], cert=report["cert"], key=report["key"])
        except OSError:  # ssl.SSLError is one
            return None
        return self._context


def is_of_this_boot(node: dict[str, object], boot_id: str) -> bool:
    """Tell what the kubelet says now from a Node of before a reboot, or one that it never saw.

    After a reboot the Node says Ready until somebody finds out otherwise.
    """
    status = node.get("status")
    info = status.get("nodeInfo") if isinstance(status, dict) else None
    return isinstance(info, dict) and info.get("bootID") == boot_id


def node_is_ready(node: dict[str, object]) -> bool:
    """Read the Ready condition of a Node object."""
    status = node.get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in conditions or []
    )


def read_boot_id(path: str = BOOT_ID_PATH) -> str:
    """Read what the kubelet reports as nodeInfo.bootID: another one at each boot."""
    with open(path, encoding="ascii") as stream:
        return stream.read().strip()


def phases_of(manifest: Manifest) -> list[Phase]:
    """List the phases after activation that this role has, in order."""
    units = set(manifest.units)
    api = ApiView(manifest, read_boot_id())
    phases = []
    if "kubelet.service" in units:
        phases.append(Phase("containerd", lambda: accepts_unix(CONTAINERD_SOCKET)))
    if "etcd.service" in units:
        phases.append(Phase("etcd", lambda: accepts_tcp(str(manifest.report["etcd"]))))
    if manifest.pool:
        phases.append(Phase("joined", lambda: has_certificate(str(manifest.report["cert"]))))
    if manifest.report["server"]:
        phases.append(Phase("api", api.is_serving))
    if "kubelet.service" in units:
        phases += [Phase("registered", api.has_node), Phase("ready", api.is_node_ready)]
    if ADDONS_UNIT in units:
        phases.append(Phase("addons", lambda: is_active(ADDONS_UNIT)))
    return phases


def accepts_unix(path: str) -> bool:
    """Ask whether something accepts connections on a Unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.settimeout(1.0)
        return _connects(end, path)


def accepts_tcp(address: str) -> bool:
    """Ask whether something accepts connections on `host:port`."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as end:
        end.settimeout(1.0)
        return _connects(end, (host.strip("[]"), int(port)))


def _connects(end: socket.socket, address: str | tuple[str, int]) -> bool:
    try:
        end.connect(address)
    except OSError:
        return False
    return True


def is_active(unit: str) -> bool:
    """Ask systemd whether a unit is active."""
    pid = os.posix_spawnp("systemctl", ["systemctl", "--quiet", "is-active", unit], os.environ)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
