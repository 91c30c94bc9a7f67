# SPDX-License-Identifier: Apache-2.0
"""What does a release site look like that misbehaves on request? (On 127.0.0.1 only.)"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Files by path, and faults that are used up in order: one per request for the path."""

    files: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Answer with these first."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """Close the connection after so many bytes."""
    ranges: bool = True
    """Whether `Range` is understood."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of every request."""
    url: str = ""


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve the site while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            _answer(self, site)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    path, wanted = handler.path, handler.headers.get("Range")
    site.requests.append((path, wanted))
    handler.close_connection = True
    statuses = site.statuses.get(path)
    if statuses:
        return _reply(handler, statuses.pop(0), b"")
    content = site.files.get(path)
    if content is None:
        return _reply(handler, 404, b"not here")
    status = 200
    if wanted and site.ranges:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return _reply(handler, 416, b"")
        status, content = 206, content[start:]
    cuts = site.cuts.get(path)
    return _reply(handler, status, content, cut=cuts.pop(0) if cuts else None)


def _reply(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, *, cut: int | None = None
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(body if cut is None else body[:cut])
