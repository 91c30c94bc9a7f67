# SPDX-License-Identifier: Apache-2.0
"""What KubeVirt, CDI and a kubelet do, as far as one sees it through the Kubernetes API.

Written after their documentation. A controller that sets phases; `kubevirt_doors` is what else
answers beside the API server. No guest runs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.platforms.rigs.kubevirt_doors import Doors
from tests.support.controlplane import ControlPlane

NAMESPACE = "machines"
FULL = "full"
"""A storage class that has no room."""
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
        server = Doors(self)
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
