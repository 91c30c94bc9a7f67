# SPDX-License-Identifier: Apache-2.0
"""May this machine of a pool have the certificate that it asks for?

Nobody listed it. With its pool's token it asks to be a node: a name of the pool's that no node has
and nobody else has just been given. As that node it then asks for a serving certificate: addresses
in the pool's range that its Node object has and no other one of the pool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kubekiln_node.csr_request import (
    CLIENT_SIGNER,
    SERVING_SIGNER,
    USER_PREFIX,
    Verdict,
    common_name,
    form_problems,
    groups_of,
    read_request,
    spec_of,
    usage_problems,
)
from kubekiln_node.csr_rules import serving_problems
from kubekiln_node.csr_seen import Asked, Seen, addresses_of
from kubekiln_node.pool import has_address, has_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BOOTSTRAP_USER = "system:bootstrap:"
GROUP_PREFIX = "system:bootstrappers:kubekiln:"

Object = dict[str, object]


class KnownPool(NamedTuple):
    """What a master knows of a pool."""

    name: str
    prefix: str
    addresses: str
    max_nodes: int


class Claim(NamedTuple):
    """Whose certificate a request is about: this node, of this pool."""

    pool: KnownPool
    node: str

    @property
    def is_possible(self) -> bool:
        """Whether the pool may have a node of this name."""
        return has_name(self.pool.prefix, self.node)


class Facts(NamedTuple):
    """What the cluster says now about a claim."""

    own: frozenset[str] | None
    """Addresses of the Node of this name; None if there is none."""
    others: dict[str, frozenset[str]]
    """The pool's other nodes, and their addresses; also those that were let in and aren't there."""
    rival: str
    """Another request for this name, which comes first; its name."""


def read_pools(raw: object) -> tuple[KnownPool, ...]:
    """Read the configuration's pools; raises ValueError naming what is wrong."""
    if not isinstance(raw, list):
        raise ValueError("pools is not a list")
    pools = []
    for item in raw:
        if not isinstance(item, dict) or set(item) != set(KnownPool._fields):
            raise ValueError(f"a pool must have exactly {', '.join(KnownPool._fields)}")
        pools.append(KnownPool(**item))
    return tuple(pools)


def claim_of(csr: Object, pools: Sequence[KnownPool], declared: Iterable[str]) -> Claim | None:
    """Find out whether a request is about a pool's machine; a declared node is none."""
    spec = spec_of(csr)
    if spec.get("signerName") == CLIENT_SIGNER:
        groups = groups_of(spec)
        for pool in pools:
            if GROUP_PREFIX + pool.name in groups:
                request = read_request(spec)
                name = common_name(request) if request else ""
                return Claim(pool, name.removeprefix(USER_PREFIX))
    user = str(spec.get("username", ""))
    node = user.removeprefix(USER_PREFIX)
    if spec.get("signerName") == SERVING_SIGNER and node != user and node not in declared:
        for pool in pools:
            if has_name(pool.prefix, node):
                return Claim(pool, node)
    return None


def judge_claim(csr: Object, claim: Claim, facts: Facts, declared: Iterable[str]) -> Verdict:
    """Decide about a request of a pool's machine, which isn't decided yet."""
    if spec_of(csr).get("signerName") == CLIENT_SIGNER:
        problems = _client_problems(csr, claim, facts, declared)
        reason = f"{claim.node} is a free name of pool {claim.pool.name}"
    else:
        if facts.own is None:
            return Verdict("wait", f"there is no Node {claim.node} yet")
        problems = _serving_problems(csr, claim, facts)
        reason = f"the names and addresses are those of node {claim.node}"
    return Verdict("deny", "; ".join(problems)) if problems else Verdict("approve", reason)


def _client_problems(csr: Object, claim: Claim, facts: Facts, declared: Iterable[str]) -> list[str]:
    spec, (pool, node) = spec_of(csr), claim
    problems = usage_problems(spec, "client auth")
    if not str(spec.get("username", "")).startswith(BOOTSTRAP_USER):
        problems.append(f"user {spec.get('username')} has no bootstrap token")
    request = read_request(spec)
    if request is None:
        return [*problems, "the request is no certificate request that can be read"]
    problems += form_problems(request, USER_PREFIX + node)
    if request.has_extensions:
        problems.append("it asks for extensions")
    if node in declared or not claim.is_possible:
        problems.append(f"{node!r} is no name of pool {pool.name}: they begin with {pool.prefix}")
    if facts.own is not None:
        problems.append(f"there is a Node {node} already; if its machine is gone, delete that Node")
    if facts.rival:
        problems.append(
            f"{facts.rival} asked for the name {node} before; if its machine is gone, delete that "
            "CertificateSigningRequest"
        )
    if len(facts.others) >= pool.max_nodes:
        problems.append(f"pool {pool.name} has its {pool.max_nodes} nodes already")
    return problems


def _serving_problems(csr: Object, claim: Claim, facts: Facts) -> list[str]:
    taken = {address for addresses in facts.others.values() for address in addresses}
    own = frozenset(
        address
        for address in facts.own or ()
        if address not in taken and has_address(claim.pool.addresses, address)
    )
    return serving_problems(spec_of(csr), claim.node, own)


def facts_about(csr: Object, claim: Claim, *, own: Object | None, seen: Seen) -> Facts:
    """Put together what the API knows: the Node of this name, and what was seen of the others."""
    addresses = None if own is None else addresses_of(own)
    is_client = spec_of(csr).get("signerName") == CLIENT_SIGNER
    if own is None and not is_client:
        return Facts(None, {}, "")
    others = {
        node: found
        for node, found in seen.nodes.items()
        if has_name(claim.pool.prefix, node) and node != claim.node
    }
    if not is_client:
        return Facts(addresses, others, "")
    expected = [node for node in seen.expected if has_name(claim.pool.prefix, node)]
    others |= {node: frozenset() for node in expected if node != claim.node}
    return Facts(addresses, others, (_rivals(csr, claim, seen) or [""])[0])


def _rivals(csr: Object, claim: Claim, seen: Seen) -> list[str]:
    """List who asked for the same name before, with another key, and may have got it."""
    request = read_request(spec_of(csr))
    if request is None:
        return []
    own = Asked(csr, request.key)
    return [
        other.name
        for other in seen.asked.get(claim.node, [])
        if other.name != own.name and other.key != own.key and _is_first(other, own, claim, seen)
    ]


def _is_first(other: Asked, own: Asked, claim: Claim, seen: Seen) -> bool:
    """Tell whether another machine comes before this one, for as long as its request is there.

    One that was approved and had its Node since then comes no more: if that Node is gone (another
    problem if it isn't), somebody deleted it.
    """
    if not other.is_decided:
        # Any node may ask in any name: without the token nobody answers, and it comes never.
        has_token = GROUP_PREFIX + claim.pool.name in groups_of(spec_of(other.csr))
        return has_token and other.order < own.order
    return other.is_approved and not seen.has_registered(claim.node, other)
