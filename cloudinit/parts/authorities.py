# SPDX-License-Identifier: Apache-2.0
"""What does kubeadm find instead of making it? (Part: the authorities, and the key of tokens.)"""

from __future__ import annotations

from cloudinit.credentials import PKI_DIR
from cloudinit.part import Context, NodeFile, Part
from cloudinit.pki import public_pem

# Authority → where kubeadm looks for it; the certificate of `kubernetes` is on every node.
_PLACES = {"kubernetes": "ca", "front-proxy": "front-proxy-ca", "etcd": "etcd/ca"}
_CA_KEYS = ("pki.algorithm", "pki.ca_days")


def render(context: Context) -> Part:
    """Give a master all authorities with their keys: it issues its own certificates from them.

    https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/kubeadm-certs/#custom-certificates
    """
    files: list[NodeFile] = []
    for authority, place in _PLACES.items():
        pair, source = context.state.authority(authority), f"state: authority {authority}"
        path = f"{PKI_DIR}/{place}"
        if authority != "kubernetes":
            files.append(NodeFile(f"{path}.crt", pair.certificate, source, _CA_KEYS))
        files.append(NodeFile(f"{path}.key", pair.key.reveal(), source, _CA_KEYS, mode=0o600))
    return Part((*files, *_service_accounts(context)))


def _service_accounts(context: Context) -> tuple[NodeFile, NodeFile]:
    key, source = context.state.service_account_key(), "state: service-account key"
    keys = ("pki.algorithm",)
    return (
        NodeFile(f"{PKI_DIR}/sa.key", key.reveal(), source, keys, mode=0o600),
        NodeFile(f"{PKI_DIR}/sa.pub", public_pem(key), source, keys),
    )
