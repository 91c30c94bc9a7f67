# SPDX-License-Identifier: Apache-2.0
"""What does the API server answer to one GET with a client certificate or a token?

Hand-written HTTP/1.0: http.client and what it imports cost half a second on an emulated CPU.
"""

from __future__ import annotations

import enum
import json
import socket
import ssl
from typing import NamedTuple

TIMEOUT_S = 5.0
MOST_BYTES = 8 << 20


class Silence(enum.Enum):
    """Why there is no answer, in words that go behind a server's name."""

    REFUSED = "is there and listens not yet"
    UNREACHABLE = "can't be reached"
    MUTE = "takes the connection but doesn't answer"


class Answer(NamedTuple):
    """Status 0 stands for: no answer at all; then `silence` says why."""

    status: int
    body: bytes
    silence: Silence | None = None

    def json(self) -> dict[str, object]:
        """Read the body as a JSON object; empty if it is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def client_context(*, ca: str, cert: str, key: str) -> ssl.SSLContext:
    """Build a TLS context that trusts `ca` only; raises OSError while the files are missing.

    Without a certificate (an empty name) it is good for what the API tells anybody: its health.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca)
    if cert:
        context.load_cert_chain(cert, key)
    return context


def get(server: str, path: str, context: ssl.SSLContext, *, token: str = "") -> Answer:
    """GET `path` from `https://host:port`; no connection, no answer, no exception."""
    host, port = split_server(server)
    name = f"[{host}]" if ":" in host else host
    bearer = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"GET {path} HTTP/1.0\r\nHost: {name}\r\nAccept: application/json\r\n"
    request = f"{head}{bearer}\r\n"
    try:
        plain = socket.create_connection((host, port), TIMEOUT_S)
    except ConnectionRefusedError:
        return Answer(0, b"", Silence.REFUSED)
    except OSError:
        return Answer(0, b"", Silence.UNREACHABLE)
    try:
        with plain, context.wrap_socket(plain, server_hostname=host) as tls:
            tls.sendall(request.encode())
            data = bytearray()
            while len(data) < MOST_BYTES and (chunk := tls.recv(65536)):
                data += chunk
    except OSError:
        return Answer(0, b"", Silence.MUTE)
    return parse_answer(bytes(data))


def split_server(server: str) -> tuple[str, int]:
    """Split `https://host:port` (or `https://[::1]:port`) into its two parts."""
    authority = server.partition("://")[2].rstrip("/")
    host, _, port = authority.rpartition(":")
    return host.strip("[]"), int(port)


def parse_answer(data: bytes) -> Answer:
    """Take an HTTP/1.0 answer apart; anything else counts as none."""
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return Answer(0, b"", Silence.MUTE)
    return Answer(int(words[1]), body)
