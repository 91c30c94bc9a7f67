# SPDX-License-Identifier: Apache-2.0
"""May this kubelet have the serving certificate that it asks for?

A serving certificate lets its holder be a node for the API server (logs, exec): each one is held
against the addresses that the cluster's own configuration gives that node.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from typing import NamedTuple

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

SIGNER = "kubernetes.io/kubelet-serving"
NODES_GROUP = "system:nodes"
USER_PREFIX = "system:node:"
NEEDED_USAGE = "server auth"
ALLOWED_USAGES = {"digital signature", "key encipherment", NEEDED_USAGE}

# As parts/approver.py of cloudinit writes it.
RUN = re.compile(r"([-a-z0-9]*)\[(\d+)-(\d+)\]")
LONGEST_RUN = 65536

Addresses = dict[str, frozenset[str]]


class Verdict(NamedTuple):
    """What to do (`approve`, `deny` or `leave`) and why."""

    action: str
    reason: str


def judge(csr: dict[str, object], nodes: Addresses) -> Verdict:
    """Decide about one CertificateSigningRequest.

    A known node that asks for what isn't its own is denied, visibly; a request that isn't ours to
    decide (another signer, another user, already decided) is left alone.
    """
    spec = csr.get("spec")
    if not isinstance(spec, dict) or spec.get("signerName") != SIGNER:
        return Verdict("leave", "another signer's")
    if is_decided(csr):
        return Verdict("leave", "already decided")
    user = str(spec.get("username", ""))
    node = user.removeprefix(USER_PREFIX)
    if not user.startswith(USER_PREFIX) or node not in nodes:
        return Verdict("leave", f"user {user} is no node of this cluster's configuration")
    problems = _spec_problems(spec) + _request_problems(spec, user, node, nodes[node])
    if problems:
        return Verdict("deny", "; ".join(problems))
    return Verdict("approve", f"the names and addresses are those configured for node {node}")


def is_decided(csr: dict[str, object]) -> bool:
    """Ask whether somebody approved or denied it, or the signer failed."""
    status = csr.get("status")
    return isinstance(status, dict) and bool(status.get("conditions") or status.get("certificate"))


def _spec_problems(spec: dict[str, object]) -> list[str]:
    problems = []
    groups = spec.get("groups")
    if not isinstance(groups, list) or NODES_GROUP not in groups:
        problems.append(f"the user is not in group {NODES_GROUP}")
    usages = spec.get("usages")
    wanted = set(usages) if isinstance(usages, list) else set()
    if NEEDED_USAGE not in wanted:
        problems.append(f"usage {NEEDED_USAGE} is missing")
    if wanted - ALLOWED_USAGES:
        problems.append(f"usages not allowed: {', '.join(sorted(wanted - ALLOWED_USAGES))}")
    return problems


def _request_problems(
    spec: dict[str, object], user: str, node: str, addresses: frozenset[str]
) -> list[str]:
    try:
        pem = base64.b64decode(str(spec.get("request", "")), validate=True)
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
        names = _alternative_names(request)
    except (binascii.Error, ValueError, x509.InvalidVersion, x509.DuplicateExtension):
        return ["the request is no certificate request that can be read"]
    problems = [] if valid else ["the request's own signature is wrong"]
    problems += _subject_problems(request, user)
    if names is None:
        return [*problems, "it asks for extensions other than alternative names, or for none"]
    return problems + _name_problems(names, node, addresses)


def _subject_problems(request: x509.CertificateSigningRequest, user: str) -> list[str]:
    found = sorted((attribute.oid.dotted_string, attribute.value) for attribute in request.subject)
    wanted = sorted(
        [
            (NameOID.COMMON_NAME.dotted_string, user),
            (NameOID.ORGANIZATION_NAME.dotted_string, NODES_GROUP),
        ]
    )
    if found == wanted:
        return []
    return [f"the subject is {request.subject.rfc4514_string()}, not O={NODES_GROUP},CN={user}"]


def _alternative_names(request: x509.CertificateSigningRequest) -> list[x509.GeneralName] | None:
    """Read the SANs; None if there is no such extension, or any other one."""
    extensions = list(request.extensions)
    if [e.oid for e in extensions] != [ExtensionOID.SUBJECT_ALTERNATIVE_NAME]:
        return None
    names = extensions[0].value
    return list(names) if isinstance(names, x509.SubjectAlternativeName) else None


def _name_problems(
    names: list[x509.GeneralName], node: str, addresses: frozenset[str]
) -> list[str]:
    if not names:
        return ["it names neither the node nor an address"]
    foreign = []
    for name in names:
        if isinstance(name, x509.DNSName) and name.value == node:
            continue
        if isinstance(name, x509.IPAddress) and str(name.value) in addresses:
            continue
        foreign.append(f"{type(name).__name__} {getattr(name, 'value', '?')}")
    return [f"not this node's: {', '.join(foreign)}"] if foreign else []


def read_addresses(raw: object) -> Addresses:
    """Read `{"node": ["10.0.0.1", …], "w-[001-300]": ["10.0.1.1"]}`.

    Brackets stand for a run of nodes whose numbers and addresses go up by one from the first's.
    Raises ValueError naming what is wrong.
    """
    if not isinstance(raw, dict) or not raw:
        raise ValueError("nodes is not an object of node names")
    nodes: Addresses = {}
    for node, addresses in raw.items():
        if not isinstance(addresses, list) or not addresses:
            raise ValueError(f"nodes.{node} is not a list of addresses")
        # Canonical text: 2001:DB8::1 and 2001:db8:0::1 are one address.
        first = [ipaddress.ip_address(address) for address in addresses]
        for offset, name in enumerate(_names(node)):
            nodes[name] = frozenset(str(address + offset) for address in first)
    return nodes


def _names(node: str) -> list[str]:
    match = RUN.fullmatch(node)
    if match is None:
        if "[" in node:
            raise ValueError(f"nodes.{node} is neither a name nor a run such as w-[001-300]")
        return [node]
    prefix, first, last = match.groups()
    if not int(first) <= int(last) < int(first) + LONGEST_RUN:
        raise ValueError(f"nodes.{node} is not a run of 1 to {LONGEST_RUN} nodes")
    return [f"{prefix}{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
