# SPDX-License-Identifier: Apache-2.0
"""Which private keys are in some bytes, however they are packed? (base64, gzip, ISO)"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)

_PEM = re.compile(
    rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----(.*?)-----END \1PRIVATE KEY-----", re.DOTALL
)
# Also over several lines, as base64 is often wrapped.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{40,}(?:\s+[A-Za-z0-9+/]{4,})*")
_GZIP = b"\x1f\x8b\x08"
_DEEPEST = 4


def keys_in(data: bytes, *, depth: int = 0) -> set[bytes]:
    """Give the public half of each private key, by which it is known in whatever format."""
    # Within a text in quotes a line's end is two characters.
    plain = data.replace(b"\\n", b"\n")
    found = {_public_half(body) for _, body in _PEM.findall(plain)}
    if depth < _DEEPEST:
        for inner in (*_decoded(plain), *_unpacked(data)):
            found |= keys_in(inner, depth=depth + 1)
    return found


def _public_half(body: bytes) -> bytes:
    key = load_der_private_key(base64.b64decode(b"".join(body.split())), password=None)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _decoded(data: bytes) -> Iterator[bytes]:
    for run in _BASE64.findall(data):
        joined = b"".join(run.split())
        whole = joined[:-1] if len(joined) % 4 == 1 else joined
        yield base64.b64decode(whole + b"=" * (-len(whole) % 4))


def _unpacked(data: bytes) -> Iterator[bytes]:
    for match in re.finditer(re.escape(_GZIP), data):
        try:
            yield zlib.decompressobj(wbits=31).decompress(data[match.start() :])
        except zlib.error:
            continue
