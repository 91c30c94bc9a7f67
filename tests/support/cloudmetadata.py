# SPDX-License-Identifier: Apache-2.0
"""Who answers as a cloud's metadata service does, token and headers included?

A program: `python cloudmetadata.py RULES.json DIRECTORY` serves files at their paths on port 80 of
all addresses, until it is ended. A directory is listed as Amazon's is, or is its file `index`.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Amazon's paths begin with the version of the interface; all have the same here.
_VERSION = re.compile(r"^/\d{4}-\d{2}-\d{2}/")


def server(rules: dict[str, str], directory: Path) -> ThreadingHTTPServer:
    """Make the server.

    Rules: `header` and its `value` are demanded of each GET; a PUT at `token_path` that has
    `token_header` is answered with `value`. What is POSTed is read, and all is well.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if rules.get("header") and self.headers.get(rules["header"]) != rules["value"]:
                return self.say(401, b"")
            path = directory / _VERSION.sub("/latest/", self.path.partition("?")[0]).strip("/")
            if path.is_dir():
                path = path / "index" if (path / "index").is_file() else path
            if path.is_dir():
                names = sorted(f"{p.name}/" if p.is_dir() else p.name for p in path.iterdir())
                return self.say(200, "\n".join(names).encode())
            return self.say(200, path.read_bytes()) if path.is_file() else self.say(404, b"")

        def do_PUT(self) -> None:
            is_asked = self.path == rules.get("token_path")
            if not is_asked or rules["token_header"] not in self.headers:
                return self.say(404, b"")
            return self.say(200, rules["value"].encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            return self.say(200, b"")

        def say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            print(words[0] % words[1:], flush=True)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    # Linux' default: such a socket takes IPv4, too.
    return Server(("::", 80), Handler)


if __name__ == "__main__":
    server(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])).serve_forever()
