# SPDX-License-Identifier: Apache-2.0
"""How do tests ask for certificates as a kubelet does, on a declared node or one of a pool?"""

from __future__ import annotations

import base64
import ipaddress
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import tests.support.node_runtime  # noqa: F401  (makes the next import possible)

from kubekiln_node.csr_pools import KnownPool  # isort: skip


NODES = {
    "solo-1": frozenset({"10.80.0.11", "fd00::11"}),
    "solo-2": frozenset({"10.80.0.12"}),
}
KEY = ec.generate_private_key(ec.SECP256R1())
USER = "system:node:solo-1"
SUBJECT = ((NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, USER))


def dns(name: str) -> x509.GeneralName:
    return x509.DNSName(name)


def ip(address: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(address))


OWN_NAMES = (dns("solo-1"), ip("10.80.0.11"))


def make_request(
    names: tuple[x509.GeneralName, ...] = OWN_NAMES,
    *,
    subject: tuple[tuple[x509.ObjectIdentifier, str], ...] = SUBJECT,
    extra: x509.ExtensionType | None = None,
) -> bytes:
    attributes = [x509.NameAttribute(oid, value) for oid, value in subject]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if extra:
        builder = builder.add_extension(extra, critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def csr(request: bytes | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "csr-x"},
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving",
            "username": USER,
            "groups": ["system:nodes", "system:authenticated"],
            "usages": ["digital signature", "server auth"],
            "request": base64.b64encode(request or make_request()).decode(),
            **spec,
        },
    }


NOW = datetime(2026, 11, 26, 6, 0, tzinfo=UTC)
DECLARED = {"m-1": frozenset({"10.80.0.11"}), "batch": frozenset({"10.80.0.12"})}
BATCH = KnownPool("batch", "batch-", "10.80.0.128/25", 3)
TOKEN_GROUPS = ["system:bootstrappers", "system:bootstrappers:kubekiln:batch"]


def subject(name: str) -> tuple[tuple[x509.ObjectIdentifier, str], ...]:
    user = f"system:node:{name}"
    return ((NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, user))


def client(name: str = "batch-1", *, called: str = "csr-1", **spec: Any) -> dict[str, Any]:
    """A machine's request for its first certificate."""
    request = spec.pop("pem", None) or make_request((), subject=subject(name))
    return {
        "metadata": {"name": called, "creationTimestamp": "2026-11-26T05:59:50Z"},
        "spec": {
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "username": "system:bootstrap:abcdef",
            "groups": TOKEN_GROUPS,
            "usages": ["digital signature", "client auth"],
            "request": base64.b64encode(request).decode(),
            **spec,
        },
    }


def serving(*names: x509.GeneralName, name: str = "batch-1", **spec: Any) -> dict[str, Any]:
    """The same machine's request for a serving certificate, once it is a node."""
    return {
        "metadata": {"name": "csr-2"},
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving",
            "username": f"system:node:{name}",
            "groups": ["system:nodes"],
            "usages": ["digital signature", "server auth"],
            "request": base64.b64encode(make_request(names, subject=subject(name))).decode(),
            **spec,
        },
    }


def other_key(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(oid, value) for oid, value in subject(name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
