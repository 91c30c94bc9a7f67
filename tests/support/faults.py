# SPDX-License-Identifier: Apache-2.0
"""A door to a server that lets everything through, breaks off, falls silent, or answers itself."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_CHUNK = 1 << 16
_ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"


@dataclass
class Door:
    """A port of 127.0.0.1 that leads to another one; `mode` may change while it is used."""

    to_port: int
    port: int = 0
    mode: str = "open"
    """`open`; `cut`: connections break after `cut_after` bytes from the client; `stall`: nothing
    passes any more after them, in either direction; `error`: 503."""
    cut_after: int = 20_000
    connections: int = 0
    tls: ssl.SSLContext | None = None
    """With what `error` answers those who expect TLS; all else is passed on as it comes."""
    _closed: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Self]:
        """Listen while the block runs."""
        with self._listen() as listener:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            try:
                yield self
            finally:
                self._closed.set()

    def _listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        return listener

    def _reach(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.to_port))

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
            with self._reach() as server:
                silent = threading.Event()
                words = (server, client, silent)
                threading.Thread(target=self._pump, args=words, daemon=True).start()
                self._forward(client, server, silent)

    def _forward(
        self, client: socket.socket, server: socket.socket, silent: threading.Event
    ) -> None:
        left = self.cut_after
        while data := client.recv(_CHUNK):
            if self.mode in ("cut", "stall"):
                data = data[:left]
                left -= len(data)
            server.sendall(data)
            if self.mode == "stall" and left <= 0:
                silent.set()
                self._closed.wait()
                return
            if self.mode == "cut" and left <= 0:
                for one in (client, server):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)
                return
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _pump(self, source: socket.socket, to: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if silent.is_set():
                    self._closed.wait()
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


@dataclass
class UnixDoor(Door):
    """The same between two sockets of the file system."""

    to_port: int = 0
    path: Path = Path()
    to_path: Path = Path()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        return listener

    def _reach(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self.to_path))
        return server
