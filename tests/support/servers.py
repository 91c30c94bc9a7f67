# SPDX-License-Identifier: Apache-2.0
"""HTTP servers of a test, in a thread of their own."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.tls import Certificate


class TlsServer(ThreadingHTTPServer):
    """HTTPS on a free port of 127.0.0.1; says nothing of clients that went away."""

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler], certificate: Certificate) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._context = certificate.server_context()

    def get_request(self) -> tuple[Any, Any]:
        client, address = super().get_request()
        # The handshake waits for the handler's thread.
        return self._context.wrap_socket(
            client, server_side=True, do_handshake_on_connect=False
        ), address

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@contextlib.contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """Serve while the block runs; yields the port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
