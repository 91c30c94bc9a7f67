# SPDX-License-Identifier: Apache-2.0
"""A fake API server as far as the approver of certificates asks it, and the way there."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import yaml

from tests.support.csrs import csr
from tests.support.node_runtime import send_json

BASE = "/apis/certificates.k8s.io/v1/certificatesigningrequests"


def named(name: str, **spec: Any) -> dict[str, Any]:
    return {**csr(**spec), "metadata": {"name": name, "resourceVersion": "5"}}


class FakeApi:
    """Serves CSRs: a list, then a watch that ends after its events; remembers decisions."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.decided: dict[str, dict[str, Any]] = {}
        self.queries: list[str] = []
        self.failing_requests = 0
        self.put_status = 200

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        client: Any = handler.connection
        assert client.getpeercert(), "came without a client certificate"
        if self.failing_requests:
            self.failing_requests -= 1
            send_json(handler, 503, {"message": "starting"})
        elif handler.command == "PUT":
            name = handler.path.removeprefix(f"{BASE}/").removesuffix("/approval")
            if self.put_status == 200:
                self.decided[name] = json.loads(body)["status"]["conditions"][0]
            send_json(handler, self.put_status, {})
        else:
            self.queries.append(handler.path)
            self._get(handler)

    def _get(self, handler: BaseHTTPRequestHandler) -> None:
        if "watch=1" not in handler.path:
            metadata = {"resourceVersion": "7"}
            send_json(handler, 200, {"metadata": metadata, "items": self.listed})
            return
        handler.send_response(200)
        handler.end_headers()
        for event in self.events:
            handler.wfile.write(json.dumps(event).encode() + b"\n")


def kubeconfig(tmp_path: Path, server: str, **user: str) -> Path:
    path = tmp_path / "approver.conf"
    raw = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "solo", "user": "me"}}],
        "clusters": [
            {"name": "solo", "cluster": {"server": server, "certificate-authority": "ca.crt"}}
        ],
        "users": [
            {
                "name": "me",
                "user": user or {"client-certificate": "client.crt", "client-key": "client.key"},
            }
        ],
    }
    path.write_text(yaml.safe_dump(raw))
    return path
