# SPDX-License-Identifier: Apache-2.0
"""Do certificates say what their spec says, and does nothing outlive its authority?"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudinit import pki
from cloudinit.pki import KeyPair, LeafSpec

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
SPEC = LeafSpec("n/use", "kubernetes", "someone", ("client",))
AUTHORITY = pki.make_authority("lab CA", algorithm="p256", days=3650, now=NOW)

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
specs = st.builds(
    LeafSpec,
    name=st.just("n/use"),
    ca=st.just("kubernetes"),
    common_name=st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=64),
    usages=st.sampled_from([("client",), ("server",), ("server", "client")]),
    organization=st.none() | labels,
    dns_names=st.lists(labels, max_size=4, unique=True).map(tuple),
    addresses=st.lists(st.ip_addresses(), max_size=4, unique=True).map(tuple),
)


def issue(spec: LeafSpec = SPEC, *, authority: KeyPair = AUTHORITY, days: int = 365) -> KeyPair:
    return pki.issue_leaf(spec, pki.Issuer.load(authority), algorithm="p256", days=days, now=NOW)


def load(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs, st.integers(1, 36500), st.integers(1, 36500))
def test_a_leaf_says_its_spec_and_ends_no_later_than_its_authority(
    spec: LeafSpec, ca_days: int, leaf_days: int
) -> None:
    authority = pki.make_authority("lab CA", algorithm="p256", days=ca_days, now=NOW)

    leaf = load(issue(spec, authority=authority, days=leaf_days))

    ca = load(authority)
    leaf.verify_directly_issued_by(ca)
    assert leaf.not_valid_after_utc <= ca.not_valid_after_utc
    assert leaf.not_valid_before_utc >= ca.not_valid_before_utc
    subject = {a.rfc4514_attribute_name: a.value for a in leaf.subject}
    assert subject.pop("CN") == spec.common_name
    assert subject == ({"O": spec.organization} if spec.organization else {})
    names, addresses = alternative_names(leaf)
    assert (names, addresses) == (list(spec.dns_names), list(spec.addresses))


def alternative_names(leaf: x509.Certificate) -> tuple[list[str], list[object]]:
    try:
        value = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    return value.get_values_for_type(x509.DNSName), list(value.get_values_for_type(x509.IPAddress))


def test_validity_begins_an_hour_ago_for_machines_whose_clock_is_behind() -> None:
    assert load(issue()).not_valid_before_utc == NOW - timedelta(hours=1)
    assert load(AUTHORITY).not_valid_before_utc == NOW - timedelta(hours=1)


def test_a_leaf_signs_nothing_and_names_its_uses() -> None:
    leaf = load(issue(LeafSpec("n/u", "kubernetes", "u", ("server", "client"))))

    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    extended = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value

    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
    assert set(extended) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_an_authority_signs_leaves_only() -> None:
    constraints = load(AUTHORITY).extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert constraints.value.ca and constraints.value.path_length == 0


@pytest.mark.parametrize(
    ("algorithm", "size"), [("p256", 256), ("p384", 384), ("rsa2048", 2048), ("rsa3072", 3072)]
)
def test_keys_are_of_the_kind_asked_for(algorithm: str, size: int) -> None:
    authority = pki.make_authority("CA", algorithm=algorithm, days=10, now=NOW)
    leaf = pki.issue_leaf(SPEC, pki.Issuer.load(authority), algorithm=algorithm, days=10, now=NOW)

    key = pki.load_key(leaf.key)

    assert key.key_size == size
    kind = rsa.RSAPrivateKey if algorithm.startswith("rsa") else ec.EllipticCurvePrivateKey
    assert isinstance(key, kind)
    assert pki.belong_together(leaf)
    assert not pki.belong_together(KeyPair(authority.key, leaf.certificate))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["p256", "p384"]))
def test_a_key_without_its_public_half_is_read_back_the_same(algorithm: str) -> None:
    pem = pki.generate_key(algorithm)

    key = pki.load_key(pem)

    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert pki._sec1_pem(key) == pem.reveal()


@pytest.mark.processes("openssl")
@pytest.mark.parametrize("algorithm", ["p256", "p384", "rsa2048"])
def test_openssl_reads_keys_and_verifies_the_chain_strictly(algorithm: str, tmp_path: Path) -> None:
    authority = pki.make_authority("lab CA", algorithm=algorithm, days=3650, now=datetime.now(UTC))
    spec = LeafSpec(
        "n/s", "kubernetes", "s", ("server",), None, ("lab-1",), (ip_address("10.80.0.11"),)
    )
    issuer = pki.Issuer.load(authority)
    leaf = pki.issue_leaf(spec, issuer, algorithm=algorithm, days=365, now=datetime.now(UTC))
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "leaf.crt").write_bytes(leaf.certificate)
    (tmp_path / "leaf.key").write_bytes(leaf.key.reveal())

    public = openssl("pkey", "-in", tmp_path / "leaf.key", "-pubout")
    certified = openssl("x509", "-in", tmp_path / "leaf.crt", "-noout", "-pubkey")
    verdict = openssl(
        "verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", "10.80.0.11",
        "-CAfile", tmp_path / "ca.crt", tmp_path / "leaf.crt",
    )  # fmt: skip

    assert public == certified
    assert verdict.endswith("OK\n")


def openssl(*words: str | Path) -> str:
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "other",
    [
        LeafSpec("n/use", "kubernetes", "other", ("client",)),
        LeafSpec("n/use", "kubernetes", "someone", ("server",)),
        LeafSpec("n/use", "kubernetes", "someone", ("client",), "group"),
        LeafSpec("n/use", "kubernetes", "someone", ("client",), None, ("name",)),
        LeafSpec("n/use", "kubernetes", "someone", ("client",), None, (), (IPv4Address(1),)),
    ],
    ids=["name", "usage", "organization", "dns", "address"],
)
def test_each_field_of_a_spec_counts_in_its_digest(other: LeafSpec) -> None:
    def digest(spec: LeafSpec) -> str:
        return spec.digest(algorithm="p256", days=1, issuer=pki.Issuer.load(AUTHORITY))

    assert digest(SPEC) == digest(LeafSpec("n/use", "kubernetes", "someone", ("client",)))
    assert digest(SPEC) != digest(other)
