# SPDX-License-Identifier: Apache-2.0
"""Does a machine of a pool get certificates for a free name and its own address, no others?"""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.support.csrs import (
    BATCH,
    DECLARED,
    TOKEN_GROUPS,
    client,
    dns,
    ip,
    make_request,
    serving,
    subject,
)

from kubekiln_node.csr_pools import (  # isort: skip
    Claim,
    Facts,
    KnownPool,
    claim_of,
    judge_claim,
    read_pools,
)


WEB = KnownPool("web", "web-", "10.80.0.64/26", 3)
FREE = Facts(own=None, others={}, rival="")


def judge(csr: dict[str, Any], facts: Facts = FREE) -> tuple[str, str]:
    claim = claim_of(csr, (WEB, BATCH), DECLARED)
    assert claim is not None
    return judge_claim(csr, claim, facts, DECLARED)


def test_a_free_name_of_the_pool_is_given() -> None:
    assert judge(client()) == ("approve", "batch-1 is a free name of pool batch")


DENIED: dict[str, tuple[dict[str, Any], Facts, str]] = {
    "a declared node": (client("m-1"), FREE, "'m-1' is no name of pool batch"),
    "declared without a dash": (client("batch"), FREE, "'batch' is no name"),
    "another pool's": (client("web-1"), FREE, "'web-1' is no name of pool batch"),
    "no name at all": (client(""), FREE, "'' is no name"),
    "a capital": (client("batch-A"), FREE, "'batch-A' is no name"),
    "a path": (client("batch-/../m-1"), FREE, "is no name"),
    "a Node there": (client(), FREE._replace(own=frozenset()), "there is a Node batch-1 already"),
    "another machine first": (client(), FREE._replace(rival="csr-0"), "csr-0 asked"),
    "a full pool": (
        client(),
        FREE._replace(others={f"batch-{i}": frozenset() for i in (2, 3, 4)}),
        "has its 3 nodes already",
    ),
    "a server's usage": (client(usages=["client auth", "server auth"]), FREE, "server auth"),
    "no usage": (client(usages=[]), FREE, "usage client auth is missing"),
    "no token": (client(username="system:node:x"), FREE, "has no bootstrap token"),
    "alternative names": (
        client(pem=make_request((dns("kubernetes"),), subject=subject("batch-1"))),
        FREE,
        "asks for extensions",
    ),
    "more than a node": (
        client(
            pem=make_request(
                (), subject=(*subject("batch-1"), (NameOID.ORGANIZATION_NAME, "system:masters"))
            )
        ),
        FREE,
        "the subject is",
    ),
    "masters": (
        client(
            pem=make_request(
                (),
                subject=((NameOID.ORGANIZATION_NAME, "system:masters"), subject("batch-1")[1]),
            )
        ),
        FREE,
        "the subject is",
    ),
}


@pytest.mark.parametrize(("csr", "facts", "said"), DENIED.values(), ids=DENIED.keys())
def test_what_a_pools_token_may_not_get_is_denied_and_named(
    csr: dict[str, Any], facts: Facts, said: str
) -> None:
    action, reason = judge(csr, facts)

    assert action == "deny"
    assert said in reason


@given(st.text(max_size=70))
def test_no_name_outside_the_pool_is_ever_given(name: str) -> None:
    verdict = judge_claim(client(), Claim(BATCH, name), FREE, DECLARED)

    # The request is for batch-1: whatever else is claimed is not what it says.
    assert (verdict.action == "approve") == (name == "batch-1")


@given(st.text(), st.lists(st.text(), max_size=3))
def test_garbage_is_denied_and_never_a_traceback(request: str, groups: list[str]) -> None:
    csr = client(groups=[*groups, TOKEN_GROUPS[1]])
    csr["spec"]["request"] = request

    assert judge(csr)[0] == "deny"


@pytest.mark.parametrize(
    "csr",
    [
        client(groups=["system:bootstrappers"]),
        client(groups=["system:bootstrappers:kubekiln:unknown"]),
        client(groups=["system:nodes"], username="system:node:batch-1"),
        client(signerName="kubernetes.io/kube-apiserver-client"),
        serving(dns("m-1"), name="m-1"),
        serving(dns("x-1"), name="x-1"),
        serving(dns("batch-1"), username="batch-1"),
        {},
    ],
    ids=[
        "no pool", "unknown pool", "a renewal", "another signer", "declared", "no pool's name",
        "no node", "nothing",
    ],
)  # fmt: skip
def test_what_is_not_about_a_pool_is_left_to_others(csr: dict[str, Any]) -> None:
    assert claim_of(csr, (WEB, BATCH), DECLARED) is None


NODE = Facts(
    own=frozenset({"10.80.0.130", "fd00::1"}),
    others={"batch-2": frozenset({"10.80.0.131"})},
    rival="",
)


def test_a_node_serves_with_its_name_and_the_address_of_its_node() -> None:
    assert judge(serving(dns("batch-1"), ip("10.80.0.130")), NODE)[0] == "approve"


@pytest.mark.parametrize(
    ("names", "facts", "said"),
    [
        ((dns("batch-2"),), NODE, "DNSName batch-2"),
        ((ip("10.80.0.131"),), NODE, "10.80.0.131"),
        ((ip("10.80.0.140"),), NODE, "10.80.0.140"),
        ((ip("fd00::1"),), NODE, "fd00::1"),
        (
            (ip("10.80.0.131"),),
            NODE._replace(own=frozenset({"10.80.0.131"})),
            "10.80.0.131",
        ),
        ((ip("10.80.0.11"),), NODE._replace(own=frozenset({"10.80.0.11"})), "10.80.0.11"),
    ],
    ids=[
        "another's name", "another's address", "not its Node's", "outside the range",
        "its Node claims another's", "its Node claims a master's",
    ],
)  # fmt: skip
def test_a_node_may_not_serve_as_another(
    names: tuple[x509.GeneralName, ...], facts: Facts, said: str
) -> None:
    action, reason = judge(serving(*names), facts)

    assert action == "deny"
    assert said in reason


def test_a_node_that_says_that_its_address_is_none_is_where_it_is_else() -> None:
    odd = NODE._replace(own=frozenset({"10.80.0.130", "nowhere", ""}))

    assert judge(serving(ip("10.80.0.130")), odd)[0] == "approve"
    assert judge(serving(ip("10.80.0.131")), odd)[0] == "deny"


def test_a_serving_certificate_waits_for_the_node_object() -> None:
    assert judge(serving(dns("batch-1")), FREE)[0] == "wait"


@pytest.mark.parametrize("raw", [None, {}, [1], [{"name": "batch"}]])
def test_pools_that_make_no_sense_are_refused(raw: Any) -> None:
    with pytest.raises(ValueError, match="pool"):
        read_pools(raw)
