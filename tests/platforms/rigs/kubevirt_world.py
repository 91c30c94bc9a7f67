# SPDX-License-Identifier: Apache-2.0
"""What KubeVirt, CDI and a kubelet do, as far as one sees it through the Kubernetes API.

Written after their documentation. Behind one HTTPS port: CDI's upload proxy, its aggregated API of
upload tokens, and a kubelet that has logs. Beside it a controller that sets phases. No guest runs.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import secrets
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import requests

from tests.support.controlplane import ControlPlane

NAMESPACE = "machines"
FULL = "full"
"""A storage class that has no room."""
_TOKENS = "/apis/upload.cdi.kubevirt.io/v1beta1"
_NO_ROOM = (
    "Saving stream failed: effective image size is larger than the reported available storage: "
    "virtual image size 67108864 is larger than available size 0"
)
_CONSOLE = "KUBEKILN phase=userdata t=1.0\n"
_VOLUMES = f"/apis/cdi.kubevirt.io/v1beta1/namespaces/{NAMESPACE}/datavolumes"
_MACHINES = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachines"
_CORE = f"/api/v1/namespaces/{NAMESPACE}"


@dataclass
class World:
    """The controllers' part; `disks` holds what was uploaded, by volume."""

    plane: ControlPlane
    directory: Path
    port: int = 0
    tokens: dict[str, str] = field(default_factory=dict)
    refuse: list[tuple[int, str]] = field(default_factory=list)
    """The next uploads are answered with these."""
    spoil: set[str] = field(default_factory=set)
    """Volumes whose upload is taken, and then can't be written."""
    _ended: threading.Event = field(default_factory=threading.Event)
    _news: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator[World]:
        """Answer and control while the block runs."""
        server = _Server(self)
        self.port = server.server_address[1]
        threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True),
                   threading.Thread(target=self._control, daemon=True),
                   *(threading.Thread(target=self._watch, args=(path,), daemon=True)
                     for path in (_VOLUMES, _MACHINES, f"{_CORE}/secrets"))]  # fmt: skip
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._news.set()
            server.shutdown()
            server.server_close()

    def disk(self, name: str) -> Path:
        """Name the file that holds a volume's upload."""
        return self.directory / f"{name}.disk"

    def finish(self, name: str) -> None:
        """Do what CDI does once all of an upload is there."""
        about = self.plane.request("GET", f"{_VOLUMES}/{name}")
        if name in self.spoil:
            self.spoil.discard(name)
            message = "Unable to process data: qemu-img: no space left on device"
            condition = {"type": "Running", "status": "False", "message": message}
            restarts = int(about["status"].get("restartCount", 0)) + 1
            self._say(_VOLUMES, name, {"phase": "UploadReady", "restartCount": restarts,
                                       "conditions": [condition]})  # fmt: skip
            return
        self._say(_VOLUMES, name, {"phase": "Succeeded"})

    def has_room(self, name: str) -> bool:
        """Tell whether the volume's storage class has room."""
        about = self.plane.request("GET", f"{_VOLUMES}/{name}")
        return bool(about["spec"]["storage"].get("storageClassName") != FULL)

    def _watch(self, path: str) -> None:
        """Say that something changed; what it is, the controller reads itself."""
        certificate, token = str(self.plane.ca), self.plane.admin_token
        url = f"https://127.0.0.1:{self.plane.port}{path}?watch=true"
        while not self._ended.is_set():
            with contextlib.suppress(requests.RequestException), requests.get(
                url, verify=certificate, headers={"Authorization": f"Bearer {token}"},
                stream=True, timeout=(5, 600), proxies={"https": "", "http": ""},
            ) as answer:  # fmt: skip
                for _ in answer.iter_lines():
                    self._news.set()
            self._ended.wait(0.1)

    def _control(self) -> None:
        while not self._ended.is_set():
            self._news.wait()
            self._news.clear()
            # An object may go, or change, between reading and writing: its event comes.
            with contextlib.suppress(AssertionError, KeyError, requests.RequestException):
                self._reconcile()

    def _reconcile(self) -> None:
        for machine in self.plane.request("GET", _MACHINES)["items"]:
            if "deletionTimestamp" not in machine["metadata"]:
                self._keep_machine(machine)
        for volume in self.plane.request("GET", _VOLUMES)["items"]:
            if "deletionTimestamp" not in volume["metadata"] and not volume.get("status"):
                self._keep_volume(volume)

    def _keep_volume(self, volume: Mapping[str, Any]) -> None:
        name, spec = volume["metadata"]["name"], volume["spec"]
        source = spec["source"].get("pvc")
        if source:
            origin = self.plane.request("GET", f"{_VOLUMES}/{source['name']}")
            if origin is None or origin.get("status", {}).get("phase") != "Succeeded":
                return
        self._make(f"{_CORE}/persistentvolumeclaims", {
            "metadata": {"name": name, "ownerReferences": [_owner(volume)]},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": spec["storage"]["resources"]},
        })  # fmt: skip
        is_upload = "upload" in spec["source"]
        self._say(_VOLUMES, name, {"phase": "UploadReady" if is_upload else "Succeeded"})

    def _keep_machine(self, machine: Mapping[str, Any]) -> None:
        name, spec = machine["metadata"]["name"], machine["spec"]
        for template in spec["dataVolumeTemplates"]:
            about = {**template["metadata"], "ownerReferences": [_owner(machine)]}
            body = {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
                    "metadata": about, "spec": template["spec"]}  # fmt: skip
            self._make(_VOLUMES, body)
        volumes = spec["template"]["spec"]["volumes"]
        sources = [v["cloudInitNoCloud"] for v in volumes if "cloudInitNoCloud" in v]
        seeds = [source["secretRef"]["name"] for source in sources]
        secrets = [self.plane.request("GET", f"{_CORE}/secrets/{name}") or {} for name in seeds]
        is_on = spec["runStrategy"] == "Always" and all(
            {"userdata", "networkdata"} <= set(secret.get("data", {})) for secret in secrets
        )
        if is_on:
            self._run(machine)
        printed = "Running" if is_on else "Stopped"
        if machine.get("status", {}).get("printableStatus") != printed or not is_on:
            self._say(_MACHINES, name, {"printableStatus": printed})

    def _run(self, machine: Mapping[str, Any]) -> None:
        """Make the pod in which a guest would run."""
        name, template = machine["metadata"]["name"], machine["spec"]["template"]
        labels = {**template["metadata"]["labels"], "kubevirt.io": "virt-launcher"}
        console = {"name": "guest-console-log", "image": "x", "restartPolicy": "Always"}
        self._make(f"{_CORE}/pods", {
            "metadata": {"name": f"virt-launcher-{name}", "labels": labels,
                         "ownerReferences": [_owner(machine)]},
            # No kubelet ends it: it goes at once when it is deleted.
            "spec": {"nodeName": "host-1", "terminationGracePeriodSeconds": 0,
                     "initContainers": [console], "containers": [{"name": "compute",
                                                                  "image": "x"}]},
        })  # fmt: skip

    def _make(self, path: str, body: Mapping[str, Any]) -> None:
        if self.plane.request("GET", f"{path}/{body['metadata']['name']}") is None:
            self.plane.request("POST", path, body)

    def _say(self, path: str, name: str, status: Mapping[str, Any]) -> None:
        self.plane.request("PATCH", f"{path}/{name}/status", {"status": status})


def _owner(owner: Mapping[str, Any]) -> dict[str, Any]:
    kind = {"runStrategy": "VirtualMachine"}.get(next(iter({"runStrategy"} & set(owner["spec"])),
                                                      ""), "DataVolume")  # fmt: skip
    version = "kubevirt.io/v1" if kind == "VirtualMachine" else "cdi.kubevirt.io/v1beta1"
    return {"apiVersion": version, "kind": kind, "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "controller": True,
            "blockOwnerDeletion": True}  # fmt: skip


class _Server(ThreadingHTTPServer):
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
        assert isinstance(self.server, _Server)
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
