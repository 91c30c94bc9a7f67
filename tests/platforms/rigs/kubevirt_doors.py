# SPDX-License-Identifier: Apache-2.0
"""What answers beside the Kubernetes API server where KubeVirt is: CDI's doors and a kubelet's.

Written after their documentation. Behind one HTTPS port: CDI's upload proxy, its aggregated API of
upload tokens, and a kubelet that has logs.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import secrets
import shutil
import socket
import ssl
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from tests.platforms.rigs.kubevirt_world import World

_TOKENS = "/apis/upload.cdi.kubevirt.io/v1beta1"
_NO_ROOM = (
    "Saving stream failed: effective image size is larger than the reported available storage: "
    "virtual image size 67108864 is larger than available size 0"
)
_CONSOLE = "KUBEKILN phase=userdata t=1.0\n"


class Doors(ThreadingHTTPServer):
    """An HTTPS server whose handshakes don't hold each other up."""

    daemon_threads = True

    def __init__(self, world: World) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.world = world
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*world.plane.certificate)

    def get_request(self) -> tuple[Any, Any]:
        """Leave the handshake to the connection's own thread."""
        sock, address = super().get_request()
        wrapped = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def shutdown_request(self, request: Any) -> None:
        """Close as Go's server does: what the other side still sends doesn't hide the answer."""
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_WR)
            request.settimeout(0.5)
            while request.recv(1 << 16):
                pass
        self.close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        del request, client_address


class _Handler(BaseHTTPRequestHandler):
    """All that isn't the API server's own."""

    protocol_version = "HTTP/1.1"

    @property
    def _world(self) -> World:
        assert isinstance(self.server, Doors)
        return self.server.world

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/containerLogs/"):
            return self._answer(200, _CONSOLE.encode(), "text/plain")
        if path == "/healthz":
            return self._answer(200, b"OK", "text/plain")
        found = _discovery(path)
        return self._answer(200 if found else 404, json.dumps(found).encode())

    def do_POST(self) -> None:
        if self.path.startswith(_TOKENS):
            return self._give_token()
        self.close_connection = True
        name = self._world.tokens.pop(self._token(), None)
        if self.path != "/v1beta1/upload-async" or name is None:
            return self._answer(404 if name else 401, b"")
        refused = self._world.refuse.pop(0) if self._world.refuse else None
        if refused is None and not self._world.has_room(name):
            refused = (400, _NO_ROOM)
        if refused is not None:
            return self._answer(refused[0], refused[1].encode(), "text/plain")
        return self._take_upload(name)

    def _token(self) -> str:
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    def _give_token(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        token = secrets.token_urlsafe(24)
        self._world.tokens[token] = request["spec"]["pvcName"]
        request["status"] = {"token": token}
        self._answer(200, json.dumps(request).encode())

    def _take_upload(self, name: str) -> None:
        part = self._world.disk(name).with_suffix(f".{self._token()[:8]}.part")
        try:
            with part.open("wb") as out:
                whole = _copy_body(self, out)
            _unpack(part)
        except (OSError, EOFError, ValueError):
            whole = False
        if not whole:
            part.unlink()
            return self._answer(500, b"Saving stream failed: unexpected EOF", "text/plain")
        part.rename(self._world.disk(name))
        self._answer(200, b"")
        self._world.finish(name)
        return None

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _discovery(path: str) -> Mapping[str, Any] | None:
    version = {"groupVersion": "upload.cdi.kubevirt.io/v1beta1", "version": "v1beta1"}
    resource = {"name": "uploadtokenrequests", "singularName": "uploadtokenrequest",
                "namespaced": True, "kind": "UploadTokenRequest", "verbs": ["create"]}  # fmt: skip
    group = {"kind": "APIGroup", "apiVersion": "v1", "name": "upload.cdi.kubevirt.io",
             "versions": [version], "preferredVersion": version}  # fmt: skip
    known: dict[str, Mapping[str, Any]] = {
        _TOKENS: {"kind": "APIResourceList", "apiVersion": "v1",
                  "groupVersion": version["groupVersion"], "resources": [resource]},
        "/apis/upload.cdi.kubevirt.io": group,
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
    }  # fmt: skip
    return known.get(path)


def _copy_body(handler: BaseHTTPRequestHandler, out: BinaryIO) -> bool:
    """Take what comes, of a known length or in chunks; tell whether all of it came."""
    if "Content-Length" in handler.headers:
        return _copy(handler, out, int(handler.headers["Content-Length"]))
    while line := handler.rfile.readline():
        size = int(line, 16)
        if not _copy(handler, out, size) or handler.rfile.readline() != b"\r\n":
            return False
        if size == 0:
            return True
    return False


def _copy(handler: BaseHTTPRequestHandler, out: BinaryIO, size: int) -> bool:
    while size:
        piece = handler.rfile.read(min(size, 1 << 20))
        if not piece:
            return False
        out.write(piece)
        size -= len(piece)
    return True


def _unpack(path: Path) -> None:
    """Do as CDI: look what it is, not how it is called."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return
    plain = path.with_suffix(".plain")
    with gzip.open(path) as packed, plain.open("wb") as out:
        shutil.copyfileobj(packed, out)
    plain.rename(path)
