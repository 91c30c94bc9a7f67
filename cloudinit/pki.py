# SPDX-License-Identifier: Apache-2.0
"""How are keys and certificates made?

Pure but for the randomness of keys and serial numbers; the clock is an argument.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kubekiln.secret import Secret

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Usage = Literal["server", "client"]

# A machine's clock may be behind ours at its first boot (FAILURES 19).
BACKDATE = timedelta(hours=1)
# A random serial of 63 bits: RFC 5280 wants it unique and positive, CA/B at least 64 bits of it;
# ours isn't a public CA, and 12 bytes less a certificate count in small payloads.
_SERIAL_BITS = 63

_GENERATORS: dict[str, Callable[[], PrivateKey]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
}
# DER of the curves' object identifiers.
_CURVE_OIDS = {
    "secp256r1": bytes.fromhex("06082a8648ce3d030107"),
    "secp384r1": bytes.fromhex("06052b81040022"),
}
_USAGES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True)
class KeyPair:
    """A private key and its certificate, both PEM."""

    key: Secret
    certificate: bytes


@dataclass(frozen=True)
class LeafSpec:
    """What a certificate is to say; two equal specs need only one certificate."""

    name: str
    """Where it is kept: `<node>/<use>`."""
    ca: str
    common_name: str
    usages: tuple[Usage, ...]
    organization: str | None = None
    dns_names: tuple[str, ...] = ()
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()

    def digest(self, *, algorithm: str, days: int, issuer: Issuer) -> str:
        """Hash all that the certificate depends on."""
        fields = [self.name, self.ca, self.common_name, self.usages, self.organization,
                  self.dns_names, [str(a) for a in self.addresses], algorithm, days,
                  issuer.digest]  # fmt: skip
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


@dataclass(frozen=True)
class Issuer:
    """An authority ready to sign: reading its key costs more than a signature."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    digest: str

    @classmethod
    def load(cls, pair: KeyPair) -> Issuer:
        """Read an authority's key and certificate."""
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        return cls(load_key(pair.key), certificate, hashlib.sha256(pair.certificate).hexdigest())


def generate_key(algorithm: str) -> Secret:
    """Make a private key, as PEM: SEC 1 for elliptic curves, PKCS #1 for RSA."""
    return _key_pem(_GENERATORS[algorithm]())


def make_authority(common_name: str, *, algorithm: str, days: int, now: datetime) -> KeyPair:
    """Make a self-signed certificate authority which may sign leaves only."""
    key = _GENERATORS[algorithm]()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    start = _start(now)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(_serial())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _hash_for(key))
    )
    return KeyPair(_key_pem(key), certificate.public_bytes(serialization.Encoding.PEM))


def issue_leaf(
    spec: LeafSpec, issuer: Issuer, *, algorithm: str, days: int, now: datetime
) -> KeyPair:
    """Make a key and have its certificate signed; it ends no later than its authority does."""
    ca = issuer.certificate
    key = _GENERATORS[algorithm]()
    start = max(_start(now), ca.not_valid_before_utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(spec))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(_serial())
        .not_valid_before(start)
        .not_valid_after(min(start + timedelta(days=days), ca.not_valid_after_utc))
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[u] for u in spec.usages]), critical=False)
        # Python 3.13 on the node verifies with VERIFY_X509_STRICT, which wants this.
        .add_extension(_authority_key_identifier(ca), critical=False)
    )
    names: list[x509.GeneralName] = [x509.DNSName(n) for n in spec.dns_names]
    names += [x509.IPAddress(a) for a in spec.addresses]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(issuer.key, _hash_for(issuer.key))
    return KeyPair(_key_pem(key), certificate.public_bytes(serialization.Encoding.PEM))


def load_key(pem: Secret) -> PrivateKey:
    """Read a private key of one of our kinds; raises ValueError for anything else."""
    key = serialization.load_pem_private_key(pem.reveal(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("neither an elliptic-curve nor an RSA key")
    return key


def public_pem(key: Secret) -> bytes:
    """Give the public half of a private key, as PEM."""
    return (
        load_key(key)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def validity(certificate: bytes) -> tuple[datetime, datetime]:
    """Give when a PEM certificate begins and ends."""
    loaded = x509.load_pem_x509_certificate(certificate)
    return loaded.not_valid_before_utc, loaded.not_valid_after_utc


def belong_together(pair: KeyPair) -> bool:
    """Tell whether the certificate is that of the key."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    return certificate.public_key() == load_key(pair.key).public_key()


def _subject(spec: LeafSpec) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, spec.common_name)]
    if spec.organization:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, spec.organization))
    return x509.Name(parts)


def _authority_key_identifier(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: PrivateKey) -> Secret:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return Secret(_sec1_pem(key))
    return Secret(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


def _sec1_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Write an EC key without its public half, which RFC 5915 leaves out at will.

    Readers compute it. 65 bytes of noise less for each key is a kilobyte of a node's payload.
    """
    size = (key.key_size + 7) // 8
    secret = key.private_numbers().private_value.to_bytes(size, "big")
    body = b"\x02\x01\x01" + _tlv(0x04, secret) + _tlv(0xA0, _CURVE_OIDS[key.curve.name])
    text = base64.encodebytes(_tlv(0x30, body)).replace(b"\n", b"")
    lines = b"\n".join(text[i : i + 64] for i in range(0, len(text), 64))
    label = b"EC PRIVATE KEY"
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (label, lines, label)


def _tlv(tag: int, content: bytes) -> bytes:
    """Encode one DER element of less than 128 bytes."""
    return bytes((tag, len(content))) + content


def _hash_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    is_p384 = isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size == 384
    return hashes.SHA384() if is_p384 else hashes.SHA256()


def _serial() -> int:
    return x509.random_serial_number() >> (159 - _SERIAL_BITS) or 1


def _start(now: datetime) -> datetime:
    return now.astimezone(UTC).replace(microsecond=0) - BACKDATE
