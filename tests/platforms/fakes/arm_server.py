# SPDX-License-Identifier: Apache-2.0
"""The fake Resource Manager behind HTTPS, and the identity endpoint that gives out its tokens.

Long-running operations are answered as Azure does: compute with `Azure-AsyncOperation`, network's
deletions with `Location` alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.platforms.fakes.arm import KINDS, SUBSCRIPTION, Arm, Operation
from tests.platforms.fakes.arm_rules import ArmError
from tests.support.servers import TlsServer, serving
from tests.support.tls import Certificate

_GROUP = rf"/subscriptions/{SUBSCRIPTION}/resourceGroups/(?P<group>[^/]+)"
_RESOURCE = re.compile(rf"{_GROUP}/providers/(?P<provider>[^/]+)/(?P<rest>.+)", re.IGNORECASE)
_OPERATION = re.compile(r"/operations/(?P<name>\w+)(?P<located>/result)?")
_API_VERSION = re.compile(r"20\d\d-\d\d-\d\d")
_ACTIONS = ("start", "retrieveBootDiagnosticsData")
GOOD_HEADER = "identity-header"


class ArmServer(TlsServer):
    """One door to the resources; `trouble` is how it behaves."""

    def __init__(self, arm: Arm, certificate: Certificate, trouble: str = "") -> None:
        super().__init__(_ArmHandler, certificate)
        self.arm, self.trouble = arm, trouble


class _ArmHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ArmServer

    def log_message(self, *_: object) -> None: ...

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        try:
            if self.server.trouble == "server-error":
                raise ArmError(503, "ServiceUnavailable", "The service is unavailable.")
            with self.server.arm.lock:
                self._check_token()
                self._route(body)
        except ArmError as error:
            self._answer(error.status, _refusal(error))

    do_GET = do_PUT = do_PATCH = do_POST = do_DELETE = _any  # noqa: N815

    def _check_token(self) -> None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        try:
            claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        except (IndexError, ValueError):
            claims = {}
        if scheme != "Bearer" or not claims.get("aud", "").startswith("https://management."):
            raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid.")

    def _route(self, body: Any) -> None:
        url = urlsplit(self.path)
        operation = _OPERATION.fullmatch(url.path)
        if operation:
            return self._poll(operation["name"], located=bool(operation["located"]))
        versions = parse_qs(url.query).get("api-version", [""])
        if not _API_VERSION.fullmatch(versions[0]):
            raise ArmError(400, "MissingApiVersionParameter", "api-version is required")
        found = _RESOURCE.fullmatch(url.path)
        if not found:
            raise ArmError(404, "SubscriptionNotFound", f"no such path: {url.path}")
        if found["group"] not in self.server.arm.groups:
            name = found["group"]
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{name}' not found.")
        self._expand = parse_qs(url.query).get("$expand", [""])[0]
        return self._resource(url.path, found["provider"], found["rest"].split("/"), body)

    def _resource(self, path: str, provider: str, parts: list[str], body: Any) -> None:
        arm = self.server.arm
        if self.command == "POST" and parts[-1] in _ACTIONS:
            return self._act(path.rsplit("/", 1)[0], parts[-1])
        kind = "/".join([provider, *parts[::2]]).lower()
        if kind not in KINDS:
            raise ArmError(404, "InvalidResourceType", kind)
        if len(parts) % 2:
            if self._expand:
                what = "Expand Instance View is only supported with a scale set's filter"
                raise ArmError(400, "BadRequest", what)
            return self._answer(200, {"value": [_without_view(one) for one in arm.list(path)]})
        if self.command == "GET":
            arm.go_on(path)
            found = arm.get(path)
            return self._answer(200, found if self._expand else _without_view(found))
        if self.command == "DELETE":
            return self._delete(path, kind)
        if self.command == "PATCH":
            return self._begun(202, *arm.patch(path, body))
        made, operation = arm.put(path, kind, body)
        if self.server.trouble == "cut" and kind.endswith("virtualmachines"):
            self.connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        return self._begun(201, made, operation)

    def _delete(self, path: str, kind: str) -> None:
        operation = self.server.arm.delete(path, kind)
        if operation is None:
            return self._answer(204, None)
        links = {"Location": f"{self._url(operation)}/result"}
        if kind.startswith("microsoft.compute"):
            links["Azure-AsyncOperation"] = self._url(operation)
        return self._answer(202, None, links)

    def _act(self, path: str, action: str) -> None:
        arm = self.server.arm
        if action == "start":
            return self._begun(202, None, arm.start(path))
        name = arm.get(path)["name"]
        return self._answer(200, {"serialConsoleLogBlobUri": arm.write_console(name)})

    def _begun(self, status: int, body: Any, operation: Operation) -> None:
        links = {"Azure-AsyncOperation": self._url(operation)}
        self._answer(status, body, links)

    def _poll(self, name: str, *, located: bool) -> None:
        operation = self.server.arm.poll(name)
        done = operation.polls_left <= 0
        if located:
            status = 204 if done else 202
            return self._answer(status, None, {} if done else {"Location": self._here()})
        if done and operation.error:
            return self._answer(200, {"status": "Failed", **_refusal(operation.error)})
        return self._answer(200, {"status": "Succeeded" if done else "InProgress"})

    def _here(self) -> str:
        return f"https://{self.headers['Host']}{self.path}"

    def _url(self, operation: Operation) -> str:
        names = {id(o): name for name, o in self.server.arm.operations.items()}
        return f"https://{self.headers['Host']}/operations/{names[id(operation)]}"

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if data:
            self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _IdentityHandler(BaseHTTPRequestHandler):
    """App Service's managed identity: https://learn.microsoft.com/azure/app-service/overview-managed-identity"""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        good = self.headers.get("X-IDENTITY-HEADER") == GOOD_HEADER
        status = 200 if good and asked.get("api-version") == ["2019-08-01"] else 401
        body: dict[str, object] = {"statusCode": 401, "message": "refused"}
        if status == 200:
            body = _token(asked["resource"][0])
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextlib.contextmanager
def identity_endpoint() -> Iterator[str]:
    """Give tokens to whoever sends the right header; yields the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _IdentityHandler)
    server.daemon_threads = True
    with serving(server) as port:
        yield f"http://127.0.0.1:{port}/msi/token"


def _token(resource: str) -> dict[str, object]:
    now = int(time.time())
    claims = {
        "aud": resource, "iss": "https://sts.windows.net/kubekiln/", "iat": now, "nbf": now - 60,
        "exp": now + 3600,
    }  # fmt: skip
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    words = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts]
    return {
        "access_token": ".".join([*words, "unsigned"]), "expires_on": str(now + 3600),
        "resource": resource, "token_type": "Bearer", "client_id": "kubekiln",
    }  # fmt: skip


def _refusal(error: ArmError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message}}


def _without_view(resource: Any) -> Any:
    """Leave out what is shown only to who expands it."""
    properties = {k: v for k, v in resource.get("properties", {}).items() if k != "instanceView"}
    return {**resource, "properties": properties}
