# SPDX-License-Identifier: Apache-2.0
"""The fake Proxmox VE behind HTTPS, as pveproxy answers: reasons hold sentences, bodies `data`."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.platforms.fakes.pve import Pve, PveError
from tests.platforms.fakes.pve_schema import METHODS
from tests.support.servers import TlsServer
from tests.support.tls import Certificate

TOKEN = "kubekiln@pve!test=11111111-2222-3333-4444-555555555555"
_PREFIX = "/api2/json/"
_CUT_AFTER = 20_000
_PATHS = [
    (verb, template, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template).replace(
        "(?P<volume>[^/]+)", "(?P<volume>.+)")))
    for verb, template in METHODS
]  # fmt: skip
Found = Mapping[str, str]


class PveServer(TlsServer):
    """One door to the cluster; `trouble` is how it behaves."""

    def __init__(self, pve: Pve, certificate: Certificate, trouble: str = "") -> None:
        super().__init__(_Handler, certificate)
        self.pve, self.trouble = pve, trouble


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PveServer

    def log_message(self, *_: object) -> None: ...

    def _any(self) -> None:
        try:
            if self.server.trouble == "server-error":
                raise PveError(503, "Service Unavailable")
            if self.headers.get("Authorization") != f"PVEAPIToken={TOKEN}":
                raise PveError(401, "invalid token value!")
            self._answer(200, "OK", {"data": self._route()})
        except PveError as error:
            body = {"data": None, "errors": error.errors} if error.errors else {"data": None}
            self._answer(error.status, error.sentence, body)
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = _any  # noqa: N815

    def _route(self) -> Any:
        url = urlsplit(self.path)
        path = unquote(url.path).removeprefix(_PREFIX)
        verb, template, parts = self._method(path)
        given, data = self._parameters(url.query, is_upload=template.endswith("/upload"))
        wrong = METHODS[verb, template].faults(given)
        if wrong:
            raise PveError(400, "Parameter verification failed.", wrong)
        if parts.get("node", self.server.pve.hosts[0]) not in self.server.pve.hosts:
            raise PveError(500, f"hostname lookup '{parts['node']}' failed")
        with self.server.pve.lock:
            if template.endswith("/upload"):
                return self.server.pve.upload(parts["node"], parts["storage"], given, data)
            answer = ANSWERS[verb, template](self.server.pve, parts, given)
        if self.server.trouble == "cut" and (verb, template) == CUT_AT:
            self._break_off()
        return answer

    def _method(self, path: str) -> tuple[str, str, dict[str, str]]:
        for verb, template, pattern in _PATHS:
            found = pattern.fullmatch(path)
            if found and verb == self.command:
                return verb, template, found.groupdict()
        raise PveError(501, f"Method '{self.command} /{path}' not implemented")

    def _parameters(self, query: str, *, is_upload: bool) -> tuple[dict[str, str], bytes]:
        length = int(self.headers.get("Content-Length") or 0)
        if is_upload:
            return self._form(length)
        body = self.rfile.read(length).decode()
        return dict(parse_qsl(query or body, keep_blank_values=True)), b""

    def _form(self, length: int) -> tuple[dict[str, str], bytes]:
        head = self.rfile.read(min(length, _CUT_AFTER))
        if self.server.trouble == "cut" and b"\r\n\r\nimport\r\n" in head:
            self._break_off()
        boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
        parts = (head + self.rfile.read(length - len(head))).split(b"--" + boundary)[1:-1]
        given: dict[str, str] = {}
        for index, part in enumerate(parts):
            head, _, body = part.partition(b"\r\n\r\n")
            body = body.removesuffix(b"\r\n")
            name = re.search(rb'name="([^"]+)"', head)
            file = re.search(rb'filename="([^"]+)"', head)
            assert name, "a part without a name"
            if not file:
                given[name[1].decode()] = body.decode()
                continue
            # pve-http-server reads the file last, and wants its type.
            if index != len(parts) - 1 or b"Content-Type:" not in head:
                raise PveError(400, "malformed upload")
            given[name[1].decode()] = file[1].decode()
            return given, body
        raise PveError(400, "no file in the upload")

    def _break_off(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError

    def _answer(self, status: int, reason: str, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status, reason)
        self.send_header("Content-Type", "application/json;charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


CUT_AT = ("POST", "nodes/{node}/qemu/{vmid}/config")


def _resources(pve: Pve, _path: Found, _given: Found) -> Any:
    return [
        {
            "id": f"qemu/{vmid}", "type": "qemu", "vmid": vmid, "node": machine.host,
            "status": "running" if machine.running else "stopped", "template": 0,
            **({"name": machine.config["name"], "tags": machine.config.get("tags", "")}
               if machine.config else {"lock": machine.lock}),
        }
        for vmid, machine in pve.machines.items()
    ]  # fmt: skip


def _storages(pve: Pve, _path: Found, _given: Found) -> Any:
    return [
        {"storage": name, "content": ",".join(sorted(s.content)), "active": 1, "enabled": 1,
         "shared": int(s.shared), "type": "dir"}
        for name, s in pve.storages.items()
    ]  # fmt: skip


def _status(pve: Pve, path: Found, _given: Found) -> Any:
    storage = pve.storage(path["storage"])
    return {"active": 1, **({"avail": storage.room} if storage.tells_room else {})}


def _content(pve: Pve, path: Found, given: Found) -> Any:
    return [
        {"volid": volume, "size": len(data), "content": given["content"], "format": "iso"}
        for volume, data in pve.storage(path["storage"]).files.items()
        if volume.partition(":")[2].startswith(f"{given['content']}/")
    ]


def _config(pve: Pve, path: Found, _given: Found) -> Any:
    machine = pve.machine(path["node"], int(path["vmid"]))
    return {**machine.config, **({"lock": machine.lock} if machine.lock else {})}


def _current(pve: Pve, path: Found, _given: Found) -> Any:
    machine = pve.machine(path["node"], int(path["vmid"]))
    return {"vmid": path["vmid"], "status": "running" if machine.running else "stopped"}


_QEMU = "nodes/{node}/qemu/{vmid}"
ANSWERS: Mapping[tuple[str, str], Callable[[Pve, Found, dict[str, str]], Any]] = {
    ("GET", "version"): lambda pve, _p, _g: {"version": pve.version, "release": pve.version[:3]},
    ("GET", "nodes"): lambda pve, _p, _g: [{"node": h, "status": "online"} for h in pve.hosts],
    ("GET", "cluster/nextid"): lambda pve, _p, _g: str(pve.next_id()),
    ("GET", "cluster/resources"): _resources,
    ("GET", "nodes/{node}/network"): lambda pve, _p, _g: [{"iface": b} for b in pve.bridges],
    ("GET", "nodes/{node}/storage"): _storages,
    ("GET", "nodes/{node}/storage/{storage}/status"): _status,
    ("GET", "nodes/{node}/storage/{storage}/content"): _content,
    ("DELETE", "nodes/{node}/storage/{storage}/content/{volume}"):
        lambda pve, p, _g: pve.remove_volume(p["node"], p["volume"]),
    ("POST", "nodes/{node}/qemu"): lambda pve, p, g: pve.create(p["node"], g),
    ("GET", f"{_QEMU}/config"): _config,
    ("POST", f"{_QEMU}/config"):
        lambda pve, p, g: pve.configure(p["node"], int(p["vmid"]), g, now=False),
    ("PUT", f"{_QEMU}/config"):
        lambda pve, p, g: pve.configure(p["node"], int(p["vmid"]), g, now=True),
    ("PUT", f"{_QEMU}/resize"):
        lambda pve, p, g: pve.resize(p["node"], int(p["vmid"]), g["disk"], g["size"]),
    ("GET", f"{_QEMU}/status/current"): _current,
    ("POST", f"{_QEMU}/status/start"):
        lambda pve, p, _g: pve.power(p["node"], int(p["vmid"]), on=True),
    ("POST", f"{_QEMU}/status/stop"):
        lambda pve, p, _g: pve.power(p["node"], int(p["vmid"]), on=False),
    ("DELETE", _QEMU): lambda pve, p, g: pve.destroy(
        p["node"], int(p["vmid"]), unreferenced=g.get("destroy-unreferenced-disks") == "1"),
    ("GET", "nodes/{node}/tasks/{upid}/status"): lambda pve, p, _g: pve.task_status(p["upid"]),
    ("GET", "nodes/{node}/tasks/{upid}/log"): lambda _pve, _p, _g: [{"n": 1, "t": "a line"}],
}  # fmt: skip
