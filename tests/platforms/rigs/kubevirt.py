# SPDX-License-Identifier: Apache-2.0
"""The contract on a real Kubernetes API server, with KubeVirt and CDI played.

etcd, kube-apiserver and the garbage collector are the programs that the image bakes. The kinds are
CRDs of our own (`crds/kubevirt.yaml`), which refuse fields that KubeVirt doesn't have; tokens come
through a real aggregated API; the user has exactly the Role that docs/platforms/kubevirt.md gives.
What KubeVirt, CDI and a kubelet do behind it is `kubevirt_world.py`'s: no guest runs.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.targets.kubeapi import KubeApi
from pipeline.targets.kubevirt import KubeVirtPlatform, Settings
from pipeline.targets.kubevirt_objects import VOLUME
from pipeline.targets.platform import FormatName, Instance, RemoteImage
from tests.platforms.rigs.kubevirt_world import FULL, NAMESPACE, World
from tests.platforms.rigs.rig import Trouble
from tests.support.controlplane import PROGRAMS, USER, ControlPlane, find_programs
from tests.support.disks import raw_sha256
from tests.support.faults import Door
from tests.support.waiting import until

HERE = Path(__file__).resolve()
CRDS = HERE.parents[1] / "crds" / "kubevirt.yaml"
PAGE = HERE.parents[3] / "docs" / "platforms" / "kubevirt.md"
_KINDS = {
    "persistentvolumeclaims": "/api/v1", "secrets": "/api/v1", "pods": "/api/v1",
    "datavolumes": "/apis/cdi.kubevirt.io/v1beta1", "virtualmachines": "/apis/kubevirt.io/v1",
}  # fmt: skip


class KubeVirtRig:
    """A control plane of its own; one for the whole run."""

    name = "kubevirt"
    format: FormatName = "qcow2"
    forgets = True
    cannot: Mapping[str, str] = {}

    def __enter__(self) -> KubeVirtRig:
        programs = find_programs(*PROGRAMS)
        if not programs:
            pytest.skip("kubevirt: no etcd and kube-apiserver in the store: bake an image first")
        with contextlib.ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(prefix="kubekiln-kubevirt-")
            directory = Path(stack.enter_context(temporary))
            self.plane = ControlPlane(directory, programs)
            stack.callback(self.plane.stop)
            self.plane.start(list(yaml.safe_load_all(CRDS.read_text())))
            self._make_namespace()
            self.world = stack.enter_context(World(self.plane, directory).running())
            self._make_cluster()
            self.plane.collect_garbage()
            self._open_doors(stack, directory)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def connect(self, trouble: Trouble | None = None) -> KubeVirtPlatform:
        more: dict[str, Any] = {
            "full-storage": {"storage_class": FULL},
            "cut": {"context": "cut", "upload_proxy": self.proxy_url("cut")},
            "server-error": {"context": "error", "upload_proxy": self.proxy_url("error")},
            "wrong-credentials": {"context": "wrong"},
            "away": {"context": "error"},
        }.get(trouble or "", {})
        return self.platform(**more)

    def platform(self, **more: Any) -> KubeVirtPlatform:
        """Make the platform with further settings."""
        return KubeVirtPlatform(self.settings(**more))

    def settings(self, **more: Any) -> Settings:
        fields = {"type": "kubevirt", "networks": ["lab-net"], "wait_s": 60,
                  "upload_proxy_ca": self.plane.ca, **more}  # fmt: skip
        return Settings.model_validate(fields)

    def proxy_url(self, mode: str) -> str:
        """Name the upload proxy behind a door of a mode."""
        return f"https://127.0.0.1:{self.proxy_doors[mode].port}"

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        path = self.world.disk(image.name)
        with path.open("rb") as file:
            form: FormatName = "qcow2" if file.read(4) == b"QFI\xfb" else "raw"
        return raw_sha256(path, form, scratch)

    def user_data(self, instance: Instance) -> bytes:
        namespace, name = instance.id.split("/")
        secret = self.plane.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        volumes = self._machine(instance)["template"]["spec"]["volumes"]
        seeds = [v["cloudInitNoCloud"] for v in volumes if "cloudInitNoCloud" in v]
        assert [seed["secretRef"]["name"] for seed in seeds] == ([name] if secret else [])
        return base64.b64decode(secret["data"]["userdata"]) if secret else b""

    def etcd_disks(self, instance: Instance) -> list[int]:
        machine = self._machine(instance)
        templates = {t["metadata"]["name"]: t["spec"] for t in machine["dataVolumeTemplates"]}
        guest = machine["template"]["spec"]
        sources = {volume["name"]: volume.get("dataVolume") for volume in guest["volumes"]}
        found = []
        for disk in guest["domain"]["devices"]["disks"][1:]:
            if source := sources[disk["name"]]:
                spec = templates[source["name"]]
                assert spec["source"] == {"blank": {}}
                found.append(int(spec["storage"]["resources"]["requests"]["storage"]) >> 30)
        return found

    def _machine(self, instance: Instance) -> dict[str, Any]:
        namespace, name = instance.id.split("/")
        path = f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines/{name}"
        spec: dict[str, Any] = self.plane.request("GET", path)["spec"]
        return spec

    def leftovers(self) -> list[str]:
        # What lost its owner while a controller was making it goes by itself, a moment later.
        until(lambda: not any(self._is_orphan(about) for about in self._objects().values()),
              what="garbage to be collected", timeout_s=60)  # fmt: skip
        return sorted(self._objects())

    def remove_volumes(self) -> None:
        """Remove all volumes, also those of uploads that never ended."""
        api = KubeApi(namespace=NAMESPACE)
        for volume in api.list(VOLUME):
            api.delete(VOLUME, volume["metadata"]["name"], timeout_s=60)

    def _objects(self) -> dict[str, Any]:
        found = {}
        for plural, base in _KINDS.items():
            listed = self.plane.request("GET", f"{base}/namespaces/{NAMESPACE}/{plural}")
            for item in listed["items"]:
                found[f"{plural}/{item['metadata']['name']}"] = item["metadata"]
        return found

    def _is_orphan(self, about: Mapping[str, Any]) -> bool:
        there = {one["uid"] for one in self._objects().values()}
        owners = {owner["uid"] for owner in about.get("ownerReferences", ())}
        return "deletionTimestamp" in about or not owners <= there

    def _make_namespace(self) -> None:
        about = {"name": NAMESPACE}
        self.plane.make({"apiVersion": "v1", "kind": "Namespace", "metadata": about})

    def _make_cluster(self) -> None:
        """Make what a cluster with KubeVirt, CDI and Multus has."""
        self.plane.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cdi"}})
        for manifest in [*_aggregated(self.plane, self.world.port), *_host(), *_rights()]:
            self.plane.make(manifest)
        self.plane.request("PATCH", "/api/v1/nodes/host-1/status", {"status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.world.port}},
        }})  # fmt: skip
        self.plane.request(
            "PATCH", "/apis/cdi.kubevirt.io/v1beta1/cdiconfigs/config/status",
            {"status": {"uploadProxyURL": f"127.0.0.1:{self.world.port}"}},
        )  # fmt: skip
        service = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.upload.cdi.kubevirt.io"
        until(lambda: _is_available(self.plane.request("GET", service)),
              what="the aggregated API", timeout_s=60)  # fmt: skip

    def _open_doors(self, stack: contextlib.ExitStack, directory: Path) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*self.plane.certificate)
        # What a machine takes is less than an image: the API's door closes earlier.
        doors = {mode: stack.enter_context(
            Door(self.plane.port, mode=mode, cut_after=3_000, tls=tls).opened()
        ) for mode in ("cut", "error")}  # fmt: skip
        self.proxy_doors = {
            mode: stack.enter_context(Door(self.world.port, mode=mode, tls=tls).opened())
            for mode in ("cut", "error")
        }
        self.api_doors = doors
        contexts = {"kubekiln": (self.plane.port, USER), "wrong": (self.plane.port, "wrong-secret"),
                    **{mode: (door.port, USER) for mode, door in doors.items()}}  # fmt: skip
        path = self.plane.write_kubeconfig("kubekiln", contexts, namespace=NAMESPACE)
        stack.enter_context(_environment("KUBECONFIG", str(path)))


@contextlib.contextmanager
def _environment(name: str, value: str) -> Any:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _aggregated(plane: ControlPlane, port: int) -> list[dict[str, Any]]:
    """CDI's API of upload tokens, behind the API server's aggregation."""
    service = {"name": "cdi-api", "namespace": "cdi", "port": port}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cdi-api", "namespace": "cdi"},
         "spec": {"type": "ExternalName", "externalName": "localhost"}},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
         "metadata": {"name": "v1beta1.upload.cdi.kubevirt.io"},
         "spec": {"group": "upload.cdi.kubevirt.io", "version": "v1beta1", "service": service,
                  "groupPriorityMinimum": 1000, "versionPriority": 15,
                  "caBundle": base64.b64encode(plane.ca.read_bytes()).decode()}},
    ]  # fmt: skip


def _host() -> list[dict[str, Any]]:
    """A host for pods, CDI's configuration, and a network."""
    return [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "host-1"}},
        {"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "CDIConfig",
         "metadata": {"name": "config"}, "spec": {}},
        {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
         "metadata": {"name": "lab-net", "namespace": NAMESPACE}, "spec": {"config": "{}"}},
    ]  # fmt: skip


def _rights() -> list[dict[str, Any]]:
    """What the page says that is needed, and what CDI lets everybody read."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    roles = [one for block in blocks for one in yaml.safe_load_all(block)
             if str(one.get("kind")).startswith("Role")]  # fmt: skip
    assert len(roles) == 2, "the page has a Role and a RoleBinding"
    group = "rbac.authorization.k8s.io"
    reader = {"name": "cdi.kubevirt.io:config-reader"}
    return [
        *({**one, "metadata": {**one["metadata"], "namespace": NAMESPACE}} for one in roles),
        {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": reader, "rules": [
            {"apiGroups": ["cdi.kubevirt.io"], "resources": ["cdiconfigs"], "verbs": ["get"]}]},
        {"apiVersion": f"{group}/v1", "kind": "ClusterRoleBinding", "metadata": reader,
         "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": reader["name"]},
         "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:authenticated"}]},
    ]  # fmt: skip


def _is_available(service: Mapping[str, Any] | None) -> bool:
    conditions = ((service or {}).get("status") or {}).get("conditions") or ()
    return any(c["type"] == "Available" and c["status"] == "True" for c in conditions)
