# SPDX-License-Identifier: Apache-2.0
"""A door to a server that lets everything through, breaks off, or answers with an error itself."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass

_CHUNK = 1 << 16
_ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"


@dataclass
class Door:
    """A port of 127.0.0.1 that leads to another one; `mode` may change while it is used."""

    to_port: int
    port: int = 0
    mode: str = "open"
    """`open`; `cut`: connections break after `cut_after` bytes from the client; `error`: 503."""
    cut_after: int = 20_000
    connections: int = 0
    tls: ssl.SSLContext | None = None
    """With what `error` answers those who expect TLS; all else is passed on as it comes."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Door]:
        """Listen while the block runs."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            yield self

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if self.mode == "error":
                with self.tls.wrap_socket(client, server_side=True) if self.tls else client as one:
                    one.recv(_CHUNK)
                    one.sendall(_ANSWER)
                return
            with socket.create_connection(("127.0.0.1", self.to_port)) as server:
                threading.Thread(target=_pump, args=(server, client), daemon=True).start()
                self._forward(client, server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        left = self.cut_after
        while data := client.recv(_CHUNK):
            if self.mode == "cut":
                data = data[:left]
                left -= len(data)
            server.sendall(data)
            if self.mode == "cut" and left <= 0:
                for one in (client, server):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                return
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)


def _pump(source: socket.socket, to: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            to.sendall(data)
        to.shutdown(socket.SHUT_WR)
