# SPDX-License-Identifier: Apache-2.0
"""May this kubelet have the serving certificate that it asks for?

A serving certificate lets its holder be a node for the API server (logs, exec): each one is held
against the addresses that the cluster's own configuration gives that node. Machines of pools, which
it doesn't list, have rules of their own (`csr_pools.py`).
"""

from __future__ import annotations

import ipaddress
import re

from kubekiln_node.csr_request import (
    NODES_GROUP,
    SERVING_SIGNER,
    USER_PREFIX,
    Verdict,
    foreign_names,
    form_problems,
    groups_of,
    is_decided,
    read_request,
    spec_of,
    usage_problems,
)

# As parts/approver.py of cloudinit writes it.
RUN = re.compile(r"([-a-z0-9]*)\[(\d+)-(\d+)\]")
LONGEST_RUN = 65536

Addresses = dict[str, frozenset[str]]


def judge(csr: dict[str, object], nodes: Addresses) -> Verdict:
    """Decide about one CertificateSigningRequest.

    A known node that asks for what isn't its own is denied, visibly; a request that isn't ours to
    decide (another signer, another user, already decided) is left alone.
    """
    spec = spec_of(csr)
    if spec.get("signerName") != SERVING_SIGNER:
        return Verdict("leave", "another signer's")
    if is_decided(csr):
        return Verdict("leave", "already decided")
    user = str(spec.get("username", ""))
    node = user.removeprefix(USER_PREFIX)
    if not user.startswith(USER_PREFIX) or node not in nodes:
        return Verdict("leave", f"user {user} is no node of this cluster's configuration")
    problems = serving_problems(spec, node, nodes[node])
    if problems:
        return Verdict("deny", "; ".join(problems))
    return Verdict("approve", f"the names and addresses are those configured for node {node}")


def unknown_node(csr: dict[str, object], nodes: Addresses) -> str | None:
    """Name the node that asks for a serving certificate and isn't among these, if that is so."""
    spec = spec_of(csr)
    user = str(spec.get("username", ""))
    node = user.removeprefix(USER_PREFIX)
    if spec.get("signerName") != SERVING_SIGNER or node == user or node in nodes:
        return None
    return None if is_decided(csr) else node


def serving_problems(spec: dict[str, object], node: str, addresses: frozenset[str]) -> list[str]:
    """Say what is wrong with a node's request for a serving certificate."""
    problems = []
    if NODES_GROUP not in groups_of(spec):
        problems.append(f"the user is not in group {NODES_GROUP}")
    problems += usage_problems(spec, "server auth")
    request = read_request(spec)
    if request is None:
        return [*problems, "the request is no certificate request that can be read"]
    problems += form_problems(request, USER_PREFIX + node)
    if request.names is None:
        return [*problems, "it asks for extensions other than alternative names, or for none"]
    if not request.names:
        return [*problems, "it names neither the node nor an address"]
    if foreign := foreign_names(request.names, node, addresses):
        problems.append(f"not this node's: {', '.join(foreign)}")
    return problems


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
        if not all(isinstance(address, str) for address in addresses):
            # A number would be taken for an address.
            raise ValueError(f"nodes.{node} has an address that is no text")
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
