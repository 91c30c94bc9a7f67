# SPDX-License-Identifier: Apache-2.0
"""How does a machine fetch its user-data, once, from this host? (`userdata.protect: url`)

One address for each machine, which its platform was given; TLS with a certificate that the same
user-data pins. Whatever was given counts as fetched before its first byte is sent: a machine that
finds it fetched knows that somebody else has it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import urlsplit

from cloudinit.model import Cluster
from cloudinit.offers import Answer, Offer, Offers
from cloudinit.protect import REST, server_spec, token_of
from cloudinit.render import open_state
from cloudinit.state import DELIVERY, State
from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.files import sha256_bytes
from kubekiln.paths import Project

# For a handshake, a request, an answer: a machine's whole user-data is a packet or ten.
_TIMEOUT_S = 10.0
# Answers that are made at a time; who only holds a connection is in nobody's way.
_MOST_AT_ONCE = 16
_MOST_CONNECTED = 512
_PATH = re.compile(r"/v1/([A-Za-z0-9_-]{43})")
_LISTEN = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[^:\[\]]+):(?P<port>\d{1,5})")
Log = Callable[[str], None]


@dataclass(frozen=True)
class Reply:
    """What somebody who asks gets, and what we say of it here."""

    status: int
    body: bytes
    note: str


class Store:
    """A cluster's rendered user-data, and who may have it."""

    def __init__(self, cluster: Cluster, project: Project) -> None:
        if cluster.userdata.protect != "url":
            raise ConfigError(
                f"the nodes of {cluster.name} fetch nothing",
                where=f"userdata.protect: {cluster.userdata.protect}",
                hint="docs/secrets.md says when they would (protect: url)",
            )
        self.cluster = cluster
        self.state = open_state(cluster, project)
        if self.state.is_new:
            hint = f"`kubekiln cluster render {cluster.name}` does it"
            raise ConfigError(f"cluster {cluster.name} was not rendered yet", hint=hint)
        self.offers = Offers(self.state.directory)
        if not self.offers.read():
            # The authority that nodes are to trust would be made here, and be known to nobody.
            hint = f"`kubekiln cluster render {cluster.name}` does it"
            raise ConfigError(f"nothing of {cluster.name} was rendered to be fetched", hint=hint)
        self._keys_dir = project.keys_dir / cluster.name

    def offer_again(self, nodes: list[str]) -> None:
        """Let nodes fetch once more what is rendered for them now; KubekilnError for others."""
        now = {offer.node: offer.token for found in self.waiting().values() for offer in found}
        if unknown := sorted(set(nodes) - now.keys()):
            raise KubekilnError(
                f"nothing was offered to {', '.join(unknown)}",
                where=str(self.offers.path),
                hint="rendering its cluster does; there are: " + ", ".join(sorted(now)),
            )
        hours = self.cluster.userdata.server_hours
        self.offers.offer_again({node: now[node] for node in nodes}, now=_now(), hours=hours)

    def waiting(self) -> dict[str, list[Offer]]:
        """Sort the offers of what is rendered now: `waits`, `fetched`, `expired`."""
        found: dict[str, list[Offer]] = {"waits": [], "fetched": [], "expired": []}
        for offer in self.offers.read().values():
            if self._rest_of(offer) is not None:
                kind = "fetched" if offer.fetched else "waits"
                found["expired" if kind == "waits" and offer.expires < _now() else kind] += [offer]
        return found

    def answer(self, path: str, by: str) -> Reply:
        """Answer one request; what is given is written down first."""
        match = _PATH.fullmatch(path)
        if not match:
            return Reply(404, b"no such page\n", f"{by} asked for what isn't there")
        token = sha256_bytes(match[1].encode())
        offer = self.offers.read().get(token)
        rest = self._rest_of(offer) if offer else None
        if offer is None or rest is None:
            said = "no such user-data: rendered anew since? then attach the new one"
            whose = f"for an older rendering of {offer.node}" if offer else "with an unknown token"
            return Reply(404, f"{said}\n".encode(), f"{by} asked {whose}")
        return _reply(self.offers.take(token, by=by, now=_now()), rest, by)

    def _rest_of(self, offer: Offer) -> bytes | None:
        """Read what this offer is of; None if a later rendering has taken its place."""
        try:
            rest = (self._keys_dir / offer.node / REST).read_bytes()
        except FileNotFoundError:
            return None
        token = token_of(self.state, offer.node, sha256_bytes(rest))
        return rest if sha256_bytes(token.reveal()) == offer.token else None


def _reply(answer: Answer, rest: bytes, by: str) -> Reply:
    offer = answer.offer
    if offer is None:
        return Reply(404, b"no such user-data\n", f"{by} asked with an unknown token")
    if answer.verdict == "given":
        return Reply(200, rest, f"{offer.node}: given to {by}")
    if answer.verdict == "expired":
        said = f"the offer to {offer.node} ended at {offer.expires:%Y-%m-%d %H:%M} UTC"
        return Reply(403, f"{said}\n".encode(), f"{by}: {said}")
    said = f"user-data of {offer.node} was fetched at {offer.fetched:%Y-%m-%d %H:%M:%S} UTC"
    return Reply(410, f"{said} by {offer.by}\n".encode(), f"{by}: {said} by {offer.by} already")


class UserDataServer(ThreadingHTTPServer):
    """Speaks TLS in the thread of each connection, so that none can hold up the others."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, store: Store, host: str, port: int, *, log: Log) -> None:
        self.store, self.log = store, log
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._context = tls_context(store.state, store.cluster)
        self.room = threading.BoundedSemaphore(_MOST_AT_ONCE)
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise KubekilnError(
                f"cannot listen on {host} port {port}: {error.strerror}",
                hint="--listen ADDRESS:PORT names another one",
            ) from error

    def server_bind(self) -> None:
        """Bind, and ask no name server what this host is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "kubekiln", self.server_address[1]

    def finish_request(self, request: object, client_address: object) -> None:
        """Shake hands, then let the handler answer."""
        assert isinstance(request, socket.socket)
        request.settimeout(_TIMEOUT_S)
        with self._context.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)

    def verify_request(self, request: object, client_address: object) -> bool:
        """Turn away whoever comes when hundreds hold a connection: machines ask again."""
        return threading.active_count() < _MOST_CONNECTED

    def handle_error(self, request: object, client_address: object) -> None:
        """Say what failed here; who doesn't speak our TLS, or hung up, asked for nothing."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.log(f"{_now():%H:%M:%S} a request failed: {error}")


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "kubekiln", ""
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        assert isinstance(self.server, UserDataServer)
        with self.server.room:
            reply = self.server.store.answer(self.path, str(self.client_address[0]))
        # First the machine, which gets it once; a log that can't be written is no reason.
        try:
            self._send(reply)
        finally:
            with contextlib.suppress(OSError):
                self.server.log(f"{_now():%H:%M:%S} {reply.note}")

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, *_: object) -> None:
        """Keep paths out of every log: they are secrets."""


def tls_context(state: State, cluster: Cluster) -> ssl.SSLContext:
    """Take the certificate that machines were told to trust; its key never touches a disk."""
    pair = state.leaf(server_spec(cluster))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Python takes keys from files only; this one is memory.
    handle = os.memfd_create("kubekiln-serve")
    try:
        os.write(handle, pair.key.reveal() + pair.certificate)
        context.load_cert_chain(Path(f"/proc/self/fd/{handle}"))
    finally:
        os.close(handle)
    return context


def listen_address(cluster: Cluster, given: str | None) -> tuple[str, int]:
    """Say where to listen: as given, or at all addresses with the port that the nodes know."""
    if given is None:
        known = urlsplit(str(cluster.userdata.server))
        return "::" if ":" in (known.hostname or "") else "0.0.0.0", known.port or 0  # noqa: S104
    match = _LISTEN.fullmatch(given)
    if not match or int(match["port"]) > 65535:
        raise ConfigError(f"--listen {given} is not ADDRESS:PORT", hint="such as 10.80.0.5:8443")
    return match["host"].strip("[]"), int(match["port"])


def fingerprint(state: State) -> str:
    """Give the SHA-256 of the authority that machines pin, as openssl prints it."""
    der = ssl.PEM_cert_to_DER_cert(state.authority(DELIVERY).certificate.decode())
    return sha256_bytes(der).upper()


def _now() -> datetime:
    return datetime.now(UTC)
