# SPDX-License-Identifier: Apache-2.0
"""Does a kubelet get a serving certificate for its own names and addresses, and for no others?"""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.support.csrs import NODES, OWN_NAMES, SUBJECT, csr, dns, ip, make_request

from kubekiln_node.csr_rules import judge, read_addresses  # isort: skip


def odd_name(name: str) -> x509.ExtensionType:
    """Alternative names of a kind that cryptography reads none of, really encoded."""
    empty = {"x400Address": b"\xa3\x00", "ediPartyName": b"\xa5\x04\xa1\x02\x0c\x00"}[name]
    value = b"\x30" + bytes([len(empty)]) + empty
    return x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, value)


@pytest.mark.parametrize("name", ["x400Address", "ediPartyName"])
def test_a_name_of_an_unheard_of_kind_is_denied_and_stops_nobody(name: str) -> None:
    request = make_request((), extra=odd_name(name))
    with pytest.raises(x509.UnsupportedGeneralNameType):
        assert x509.load_pem_x509_csr(request).extensions

    verdict = judge(csr(request), NODES)

    assert verdict.action == "deny"
    assert "no certificate request that can be read" in verdict.reason


def test_a_node_gets_its_own_names_and_addresses() -> None:
    assert judge(csr(), NODES).action == "approve"


@pytest.mark.parametrize(
    "names",
    [(dns("solo-1"),), (ip("10.80.0.11"),), (*OWN_NAMES, ip("fd00:0:0::11"))],
    ids=["name alone", "address alone", "both families"],
)
def test_any_part_of_what_is_its_own_will_do(names: tuple[x509.GeneralName, ...]) -> None:
    assert judge(csr(make_request(names)), NODES).action == "approve"


def test_an_rsa_kubelet_also_asks_for_key_encipherment() -> None:
    usages = ["key encipherment", "digital signature", "server auth"]

    assert judge(csr(usages=usages), NODES).action == "approve"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "none"),
        ((*OWN_NAMES, dns("kubernetes")), "DNSName kubernetes"),
        ((*OWN_NAMES, dns("solo-2")), "DNSName solo-2"),
        ((*OWN_NAMES, dns("*")), "DNSName *"),
        ((*OWN_NAMES, ip("10.80.0.12")), "IPAddress 10.80.0.12"),
        ((*OWN_NAMES, ip("127.0.0.1")), "IPAddress 127.0.0.1"),
        ((*OWN_NAMES, x509.RFC822Name("a@b.c")), "RFC822Name"),
        ((*OWN_NAMES, x509.UniformResourceIdentifier("spiffe://x")), "UniformResource"),
    ],
)
def test_foreign_names_are_denied_and_named(names: tuple[x509.GeneralName, ...], said: str) -> None:
    verdict = judge(csr(make_request(names)), NODES)

    assert verdict.action == "deny"
    assert said in verdict.reason


@pytest.mark.parametrize(
    "subject",
    [
        SUBJECT[1:],
        ((NameOID.ORGANIZATION_NAME, "system:masters"), SUBJECT[1]),
        (*SUBJECT, (NameOID.ORGANIZATION_NAME, "system:masters")),
        (SUBJECT[0], (NameOID.COMMON_NAME, "system:node:solo-2")),
        (*SUBJECT, (NameOID.ORGANIZATIONAL_UNIT_NAME, "x")),
    ],
    ids=["no group", "masters", "masters too", "another node", "a unit"],
)
def test_a_subject_other_than_the_nodes_is_denied(subject: Any) -> None:
    assert judge(csr(make_request(subject=subject)), NODES).action == "deny"


@pytest.mark.parametrize(
    "usages",
    [[], ["digital signature"], ["server auth", "client auth"], ["server auth", "any"], None],
    ids=str,
)
def test_usages_other_than_a_servers_are_denied(usages: Any) -> None:
    assert judge(csr(usages=usages), NODES).action == "deny"


def test_a_user_outside_the_nodes_group_is_denied() -> None:
    assert judge(csr(groups=["system:authenticated"]), NODES).action == "deny"


def test_extensions_beside_the_names_are_denied() -> None:
    request = make_request(extra=x509.BasicConstraints(ca=True, path_length=None))

    assert judge(csr(request), NODES).action == "deny"


def test_a_request_with_a_broken_signature_is_denied() -> None:
    whole = x509.load_pem_x509_csr(make_request())
    der = bytearray(whole.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    pem = b"-----BEGIN CERTIFICATE REQUEST-----\n%s-----END CERTIFICATE REQUEST-----\n"

    verdict = judge(csr(pem % base64.encodebytes(bytes(der))), NODES)

    assert verdict.action == "deny"
    assert "signature" in verdict.reason


@given(garbage=st.one_of(st.text(), st.binary().map(lambda b: base64.b64encode(b).decode())))
def test_garbage_is_denied_and_never_a_traceback(garbage: str) -> None:
    assert (
        judge(csr(request=None) | {"spec": csr()["spec"] | {"request": garbage}}, NODES).action
        == "deny"
    )


@pytest.mark.parametrize(
    "spec",
    [
        {"signerName": "kubernetes.io/kube-apiserver-client-kubelet"},
        {"username": "system:node:stranger"},
        {"username": "solo-1"},
        {"username": "system:serviceaccount:x:solo-1"},
    ],
    ids=str,
)
def test_what_is_not_ours_is_left_alone(spec: dict[str, str]) -> None:
    assert judge(csr(**spec), NODES).action == "leave"


@pytest.mark.parametrize("status", [{"conditions": [{"type": "Denied"}]}, {"certificate": "x"}])
def test_what_is_decided_stays_decided(status: dict[str, Any]) -> None:
    assert judge({**csr(), "status": status}, NODES).action == "leave"


def test_a_node_may_not_speak_for_another() -> None:
    names = (dns("solo-2"), ip("10.80.0.12"))
    subject = (SUBJECT[0], (NameOID.COMMON_NAME, "system:node:solo-2"))

    assert judge(csr(make_request(names, subject=subject)), NODES).action == "deny"


def test_addresses_are_compared_in_one_spelling() -> None:
    assert read_addresses({"a": ["2001:DB8:0::1"]}) == {"a": frozenset({"2001:db8::1"})}


def test_a_run_of_nodes_stands_for_each_of_them() -> None:
    nodes = read_addresses({"w-[098-101]": ["10.0.0.254", "fd00::fe"], "[8-10]": ["10.1.0.8"]})

    assert nodes == {
        "w-098": {"10.0.0.254", "fd00::fe"},
        "w-099": {"10.0.0.255", "fd00::ff"},
        "w-100": {"10.0.1.0", "fd00::100"},
        "w-101": {"10.0.1.1", "fd00::101"},
        "8": {"10.1.0.8"},
        "9": {"10.1.0.9"},
        "10": {"10.1.0.10"},
    }


@pytest.mark.parametrize("run", ["w-[2-1]", "w-[1-99999999]", "w-[1]", "[a-b]", "w-[1-2]x"])
def test_a_run_that_is_none_is_refused(run: str) -> None:
    with pytest.raises(ValueError, match="run"):
        read_addresses({run: ["10.0.0.1"]})


@pytest.mark.parametrize("raw", [None, {}, {"a": []}, {"a": "10.0.0.1"}, {"a": ["10.0.0.0/8"]}])
def test_a_configuration_without_addresses_is_refused(raw: Any) -> None:
    with pytest.raises(ValueError, match=r"nodes|address"):
        read_addresses(raw)
