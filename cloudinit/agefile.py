# SPDX-License-Identifier: Apache-2.0
"""How is something encrypted for one identity of age, with the same bytes each time?

The format is age's (https://age-encryption.org/v1: one X25519 recipient, armored), so that the node
opens it with age's own program. Not made by pyrage, which takes fresh randomness: a rendering must
give the same bytes again. What is random there is derived here, by HMAC under a secret key, from
the whole content and whom it is for: it is another one for every other content, and the same
content for the same reader says nothing new (as in RFC 6979 and SIV).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import textwrap

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kubekiln.secret import Secret

_VERSION = b"age-encryption.org/v1"
_COLUMNS = 64
_CHUNK = 64 * 1024
_NONCE = 16
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_HRP = "age-secret-key-"


def derive(key: Secret, *context: bytes) -> bytes:
    """Derive 32 bytes from a secret key for one purpose; no two contexts can be mistaken."""
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in context)
    return hmac.new(key.reveal(), framed, hashlib.sha256).digest()


def identity_text(scalar: bytes) -> Secret:
    """Write an identity as age reads it: `AGE-SECRET-KEY-1…` (BIP 173)."""
    values = _five_bits(scalar)
    check = _polymod([*_expanded(), *values, 0, 0, 0, 0, 0, 0]) ^ 1
    digits = [*values, *((check >> 5 * (5 - i)) & 31 for i in range(6))]
    return Secret(f"{_HRP}1{''.join(_BECH32[digit] for digit in digits)}".upper())


def encrypt(content: bytes, *, scalar: bytes, key: Secret) -> bytes:
    """Encrypt for the identity of this scalar; `key` is what chance is derived from."""
    owner = X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()
    digest = hashlib.sha256(content).digest()
    file_key = derive(key, b"age file key", owner, digest)[:16]
    ephemeral = derive(key, b"age ephemeral", owner, digest)
    nonce = derive(key, b"age nonce", owner, digest)[:_NONCE]
    header = _header(file_key, ephemeral, owner)
    return _armored(header + nonce + _stream(content, _hkdf(file_key, nonce, b"payload")))


def _header(file_key: bytes, ephemeral: bytes, owner: bytes) -> bytes:
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    share = private.public_key().public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    shared = private.exchange(X25519PublicKey.from_public_bytes(owner))
    wrapping = _hkdf(shared, share + owner, _VERSION + b"/X25519")
    wrapped = ChaCha20Poly1305(wrapping).encrypt(bytes(12), file_key, None)
    lines = b"%s\n-> X25519 %s\n%s\n---" % (_VERSION, _base64(share), _base64(wrapped))
    mac = hmac.new(_hkdf(file_key, b"", b"header"), lines, hashlib.sha256).digest()
    return b"%s %s\n" % (lines, _base64(mac))


def _stream(content: bytes, payload_key: bytes) -> bytes:
    """Encrypt in chunks; the nonce counts them and says which one is the last."""
    cipher = ChaCha20Poly1305(payload_key)
    starts = range(0, max(len(content), 1), _CHUNK)
    return b"".join(
        cipher.encrypt(
            number.to_bytes(11, "big") + (b"\x01" if start == starts[-1] else b"\x00"),
            content[start : start + _CHUNK],
            None,
        )
        for number, start in enumerate(starts)
    )


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, info).derive(secret)


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _armored(data: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(data).decode(), _COLUMNS)
    body = "\n".join(lines)
    return (
        f"-----BEGIN AGE ENCRYPTED FILE-----\n{body}\n-----END AGE ENCRYPTED FILE-----\n".encode()
    )


def _five_bits(data: bytes) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in data)
    return [int(bits[i : i + 5].ljust(5, "0"), 2) for i in range(0, len(bits), 5)]


def _expanded() -> list[int]:
    return [*(ord(c) >> 5 for c in _HRP), 0, *(ord(c) & 31 for c in _HRP)]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(
            (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
        ):
            check ^= generator if top >> bit & 1 else 0
    return check
