# SPDX-License-Identifier: Apache-2.0
"""How do tests reach the programs that run on a node, without leaving bytecode in the element?"""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[2]
ELEMENT_DIR = ROOT / "elements" / "k8s-node-runtime"
STATIC_DIR = ELEMENT_DIR / "static"
PROGRAMS_DIR = STATIC_DIR / "usr/lib/kubekiln"

POOL_FIELDS: dict[str, Any] = {
    "name": "batch",
    "prefix": "batch-",
    "addresses": "127.0.0.0/8",
    "token_id": "abcdef",
    "token_expires": 1_800_000_000,
}
"""A pool as its machines' manifests have it."""

# What lies in static/ lands in the image: no __pycache__ there.
sys.dont_write_bytecode = True
if str(PROGRAMS_DIR) not in sys.path:
    sys.path.insert(0, str(PROGRAMS_DIR))


def sample_manifest(**changes: Any) -> dict[str, Any]:
    """Build a node manifest that is right but for `changes`."""
    manifest: dict[str, Any] = {
        "schema": 1,
        "cluster": "solo",
        "node": "solo-1",
        "role": "single",
        "kubernetes": "1.37.1",
        "units": ["etcd.service", "kubelet.service", "kubekiln-addons.service"],
        "files": [
            {"path": "/etc/x", "mode": "0600", "owner": "root:root", "sha256": "0" * 64},
        ],
        "phone_home": None,
        "report": {},
    }
    return {**manifest, **changes}


@dataclass(frozen=True)
class Node:
    """A fake root with everything that a node manifest promises."""

    root: Path
    manifest: dict[str, Any]

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def write_manifest(self, **changes: Any) -> None:
        self.path("/etc/kubekiln/node.json").write_text(json.dumps({**self.manifest, **changes}))


def make_node(root: Path) -> Node:
    """Write a healthy node below `root`."""
    contents = {
        "/etc/systemd/system/etcd.service": ("0600", "[Service]\n"),
        "/etc/kubernetes/pki/ca.key": ("0600", "secret\n"),
        "/etc/kubernetes/pki/ca.crt": ("0644", "public\n"),
    }
    files = []
    for name, (mode, text) in contents.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(int(mode, 8))
        digest = sha256(text.encode()).hexdigest()
        files.append({"path": name, "mode": mode, "owner": "root:root", "sha256": digest})
    (root / "etc/kubekiln").mkdir(parents=True)
    (root / "etc/cloud").mkdir(parents=True)
    (root / "etc/kubekiln/image.json").write_text('{"schema": 1, "kubernetes": "1.37.1"}')
    node = Node(root, sample_manifest(units=["etcd.service"], files=files))
    node.write_manifest()
    return node


@dataclass(frozen=True)
class Certificates:
    """PEM files of a CA, a server for 127.0.0.1 and a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def make_certificates(directory: Path) -> Certificates:
    """Mint a small PKI as strict as Python's default TLS context wants it."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = (
        _builder(name, name, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(_subject_key_id(ca_key), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write_pem(directory / "ca.crt", ca)
    for leaf in ("server", "client"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, leaf)])
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            _builder(subject, name, key)
            .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False
            )
            .sign(ca_key, hashes.SHA256())
        )
        _write_pem(directory / f"{leaf}.crt", certificate)
        (directory / f"{leaf}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
    return Certificates(
        directory / "ca.crt",
        directory / "server.crt",
        directory / "server.key",
        directory / "client.crt",
        directory / "client.key",
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(tz=datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
    )


def _subject_key_id(key: ec.EllipticCurvePrivateKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _write_pem(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


Answerer = Callable[[BaseHTTPRequestHandler, bytes], None]


@contextmanager
def serving(
    answer: Answerer, certificates: Certificates | None = None, *, keeps_connections: bool = False
) -> Iterator[str]:
    """Serve on a loopback port, over TLS that asks for a client certificate; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            answer(self, self.rfile.read(length))

        do_GET = do_PATCH = do_PUT = do_POST = _handle
        protocol_version = "HTTP/1.1" if keeps_connections else "HTTP/1.0"

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server, certificates.server_key)
        context.load_verify_locations(certificates.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    scheme = "https" if certificates else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send_json(handler: BaseHTTPRequestHandler, status: int, body: object) -> None:
    """Answer one request with JSON."""
    data = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
