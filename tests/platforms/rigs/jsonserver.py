# SPDX-License-Identifier: Apache-2.0
"""An HTTP server of 127.0.0.1 for contract fakes: JSON in, JSON out, one function a request.

The same fake may be served at several ports, one of them troubled: that is how a connection breaks
after the request was carried out and before its answer came.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

Trouble = Literal["cut", "server-error"]


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    base: str
    """Of this server: `http://127.0.0.1:PORT`."""
    ids: tuple[str, ...]
    """What the route's groups matched."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


class Refused(Exception):
    """A request that isn't as the API's reference says, or can't be granted."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


Answer = tuple[int, Any]
Route = tuple[str, str, Callable[[Request], Answer]]


@dataclass
class Fake:
    """A service: its routes, and how it writes an error."""

    routes: Sequence[Route]
    write_error: Callable[[int, str], Any]
    open_paths: frozenset[str] = frozenset({"/"})
    """What is told without a token."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of every answer."""

    def answer(self, method: str, path: str, request: Callable[..., Request]) -> Answer:
        """Find the route and do what it says, one request at a time."""
        if path not in self.open_paths and not request(()).headers.get("X-Auth-Token"):
            return 401, self.write_error(401, "no token")
        for wanted, pattern, act in self.routes:
            match = re.fullmatch(pattern, path)
            if match and wanted == method:
                with self.lock:
                    try:
                        return act(request(match.groups()))
                    except Refused as refused:
                        return refused.status, self.write_error(refused.status, str(refused))
        return 404, self.write_error(404, f"{method} {path}: no such thing")


@contextlib.contextmanager
def served(
    fake: Fake, *, trouble: Trouble | None = None, troubled: tuple[str, str] = ("", "")
) -> Iterator[int]:
    """Serve while the block runs; gives the port. `troubled` is the method and path that breaks."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            url = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            breaks = trouble and (self.command, url.path) == troubled
            if breaks and trouble == "server-error":
                self.reply(503, fake.write_error(503, "busy"))
                return

            def request(ids: tuple[str, ...]) -> Request:
                query = dict(parse_qsl(url.query, keep_blank_values=True))
                base = f"http://{self.headers['Host']}"
                return Request(
                    base, ids, query, dict(self.headers.items()), json.loads(raw) if raw else None
                )

            status, body = fake.answer(self.command, url.path, request)
            if breaks:
                self.close_connection = True
                return
            self.reply(status, body)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def reply(self, status: int, body: Any) -> None:
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in fake.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
