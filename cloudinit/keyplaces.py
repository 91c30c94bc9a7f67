# SPDX-License-Identifier: Apache-2.0
"""Where may private keys be on a machine? (THE table: bootstrap, role → files.)

Whoever takes over a machine has the keys that lie on it. So a key where none belongs, such as an
authority's on a worker, is an error before anything is written.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Literal

from cloudinit.credentials import PKI_DIR
from cloudinit.modeltypes import BootstrapName, RoleName
from cloudinit.part import Context, NodeFile
from cloudinit.parts.addons import DIRECTORY as ADDONS_DIR
from cloudinit.parts.etcd import PKI_DIR as ETCD_PKI_DIR

_KUBELET = frozenset({f"{PKI_DIR}/kubelet.key"})
_ETCD = frozenset({f"{ETCD_PKI_DIR}/etcd.key"})
_MASTER = _KUBELET | {
    f"{PKI_DIR}/{name}.key"
    for name in (
        "admin", "apiserver", "apiserver-etcd-client", "apiserver-kubelet-client", "ca",
        "controller-manager", "csr-approver", "front-proxy-client", "sa", "scheduler",
        "super-admin",
    )
}  # fmt: skip
# kubeadm makes the others, and needs all three authorities for it.
_KUBEADM_MASTER = _KUBELET | {
    f"{PKI_DIR}/{name}.key"
    for name in ("ca", "csr-approver", "etcd/ca", "front-proxy-ca", "sa", "super-admin")
}
_NONE: frozenset[str] = frozenset()

KEY_PLACES: Mapping[BootstrapName, Mapping[RoleName | Literal["pool"], frozenset[str]]] = {
    "systemd": {
        "single": _MASTER | _ETCD,
        "master": _MASTER | _ETCD,
        "etcd": _ETCD,
        "worker": _KUBELET,
        "pool": _NONE,
        "lb": _NONE,
    },
    "kubeadm": {
        "single": _KUBEADM_MASTER,
        "master": _KUBEADM_MASTER,
        "worker": _KUBELET,
        "lb": _NONE,
    },
}


def _in_base64(text: bytes) -> tuple[bytes, ...]:
    """Give what base64 makes of a text, by where in a group of three bytes it begins."""
    return tuple(
        base64.b64encode(bytes(before) + text)[-(-before * 4 // 3) : (before + len(text)) * 4 // 3]
        for before in range(3)
    )


# PEM of any kind of key ("EC PRIVATE KEY", PKCS#8's "PRIVATE KEY", …), plain or in base64, as
# kubeconfigs have it. Plain searches: a pattern takes many times as long, with thousands of nodes.
_MARKS = (b"PRIVATE KEY-----", b"client-key-data:", *_in_base64(b"PRIVATE KEY-----"))


def holds_key(content: bytes) -> bool:
    """Tell whether a private key is in a file's content."""
    return any(mark in content for mark in _MARKS)


def key_problems(context: Context, files: tuple[NodeFile, ...]) -> Iterator[str]:
    """Name each file with a private key that the machine must not have there.

    What is in a user's own add-ons, which only masters have, is the user's business.
    """
    owner, role = context.owner, context.owner.role
    allowed = KEY_PLACES[context.cluster.bootstrap][role]
    for file in files:
        is_addon = owner.serves_api and file.path.startswith(f"{ADDONS_DIR}/")
        if file.path not in allowed and not is_addon and holds_key(file.content):
            yield f"{file.path} of {owner.name} holds a private key, which no {role} has there"
