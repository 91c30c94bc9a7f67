# SPDX-License-Identifier: Apache-2.0
"""What does a CertificateSigningRequest of a kubelet ask for, and is its form right?"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtensionOID, NameOID

SERVING_SIGNER = "kubernetes.io/kubelet-serving"
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
NODES_GROUP = "system:nodes"
USER_PREFIX = "system:node:"
# What every kubelet's key may be used for, beside the one usage that a signer is there for.
COMMON_USAGES = {"digital signature", "key encipherment"}


UNREADABLE = (
    binascii.Error,
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    # Of alternative names that are an x400Address or an ediPartyName.
    x509.UnsupportedGeneralNameType,
)


class Verdict(NamedTuple):
    """What to do (`approve`, `deny`, `leave`, or `wait` for what isn't known yet) and why."""

    action: str
    reason: str


class Request(NamedTuple):
    """The PKCS #10 request inside."""

    subject: list[tuple[str, str]]
    subject_text: str
    names: list[x509.GeneralName] | None
    """Alternative names; none if there is any other extension."""
    has_extensions: bool
    key: bytes
    is_signed: bool


def is_decided(csr: dict[str, object]) -> bool:
    """Ask whether somebody approved or denied it, or the signer failed."""
    status = csr.get("status")
    return isinstance(status, dict) and bool(status.get("conditions") or status.get("certificate"))


def spec_of(csr: dict[str, object]) -> dict[str, object]:
    """Give its spec; an empty one if it has none."""
    spec = csr.get("spec")
    return spec if isinstance(spec, dict) else {}


def groups_of(spec: dict[str, object]) -> list[str]:
    """Give the groups of whoever asks."""
    groups = spec.get("groups")
    return [str(group) for group in groups] if isinstance(groups, list) else []


def usage_problems(spec: dict[str, object], needed: str) -> list[str]:
    """Say what is wrong with the usages that it asks for."""
    usages = spec.get("usages")
    wanted = set(usages) if isinstance(usages, list) else set()
    problems = [] if needed in wanted else [f"usage {needed} is missing"]
    if foreign := wanted - COMMON_USAGES - {needed}:
        problems.append(f"usages not allowed: {', '.join(sorted(foreign))}")
    return problems


def read_request(spec: dict[str, object]) -> Request | None:
    """Read what is inside; None if it is no certificate request."""
    try:
        pem = base64.b64decode(str(spec.get("request", "")), validate=True)
        found = x509.load_pem_x509_csr(pem)
        key = found.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return Request(
            subject=sorted((a.oid.dotted_string, str(a.value)) for a in found.subject),
            subject_text=found.subject.rfc4514_string(),
            names=_alternative_names(found),
            has_extensions=len(list(found.extensions)) > 0,
            key=key,
            is_signed=found.is_signature_valid,
        )
    except UNREADABLE:
        return None


def form_problems(request: Request, user: str) -> list[str]:
    """Say what is wrong with its signature, or with a subject that isn't a node's own."""
    problems = [] if request.is_signed else ["the request's own signature is wrong"]
    wanted = sorted(
        [
            (NameOID.COMMON_NAME.dotted_string, user),
            (NameOID.ORGANIZATION_NAME.dotted_string, NODES_GROUP),
        ]
    )
    if request.subject != wanted:
        problems.append(f"the subject is {request.subject_text}, not O={NODES_GROUP},CN={user}")
    return problems


def common_name(request: Request) -> str:
    """Give the one common name of the subject; nothing if there is none, or several."""
    names = [value for oid, value in request.subject if oid == NameOID.COMMON_NAME.dotted_string]
    return names[0] if len(names) == 1 else ""


def _alternative_names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName] | None:
    extensions = list(request.extensions)
    if [e.oid for e in extensions] != [ExtensionOID.SUBJECT_ALTERNATIVE_NAME]:
        return None
    names = extensions[0].value
    return list(names) if isinstance(names, x509.SubjectAlternativeName) else None


def foreign_names(names: list[x509.GeneralName], node: str, addresses: frozenset[str]) -> list[str]:
    """List what of the alternative names is neither the node's name nor an address of its own."""
    foreign = []
    for name in names:
        if isinstance(name, x509.DNSName) and name.value == node:
            continue
        if isinstance(name, x509.IPAddress) and str(name.value) in addresses:
            continue
        foreign.append(f"{type(name).__name__} {getattr(name, 'value', '?')}")
    return foreign
