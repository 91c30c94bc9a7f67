# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API of our own for tests: etcd, API server and the controllers that collect garbage.

The programs are those that the image bakes, out of the component store; nothing is fetched.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import requests

from cloudinit.pki import Issuer, LeafSpec, generate_key, issue_leaf, make_authority, public_pem
from kubekiln.paths import Project
from kubekiln.process import Command, spawn
from pipeline.forecast import look_up_components
from pipeline.lock import load_lock, lock_path
from pipeline.model import load_image
from tests.support.waiting import until

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
ADMIN, USER = "admin-of-the-test", "user-of-the-test"
_NAMES = ("localhost", "cdi-api.cdi.svc")
# On a machine that does much else as well an API server takes its time.
_STARTED_S = 240.0


def find_programs(*names: str) -> dict[str, Path]:
    """Find programs of the image's components; empty unless the store has all of them."""
    project = Project.find(Path(__file__).parent)
    lock = load_lock(lock_path(project.configs_dir))
    components, _ = look_up_components(load_image("debian-13", project), lock)
    found = {name: path for one in components.values() for name, path in one.files.items()}
    return {name: found[name] for name in names} if set(names) <= set(found) else {}


@dataclass
class ControlPlane:
    """The processes, on free ports of 127.0.0.1, with all their data in one directory."""

    directory: Path
    programs: Mapping[str, Path]
    port: int = 0
    admin_token: str = ADMIN
    _running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _session: requests.Session = field(default_factory=requests.Session)

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def certificate(self) -> tuple[Path, Path]:
        """A server's certificate and key, for 127.0.0.1."""
        return self.directory / "server.crt", self.directory / "server.key"

    def start(self, manifests: Sequence[Mapping[str, Any]] = ()) -> None:
        """Start all; `manifests` (CRDs) are there before the garbage collector looks for kinds."""
        self._session.trust_env = False
        self._session.verify = str(self.ca)
        self._session.headers["Authorization"] = f"Bearer {ADMIN}"
        self._write_keys()
        etcd_port, peer_port, self.port = free_ports(3)
        self._start_etcd(etcd_port, peer_port)
        self._start_api(etcd_port)
        until(self._is_ready, what="a ready API server", timeout_s=_STARTED_S)
        for manifest in manifests:
            self.make(manifest)
        for crd in (m["metadata"]["name"] for m in manifests):
            until(partial(self._is_established, crd), what=crd, timeout_s=_STARTED_S)

    def collect_garbage(self) -> None:
        """Start the controllers that remove what nobody owns any more."""
        kubeconfig = self.write_kubeconfig("controllers", {"admin": (self.port, ADMIN)})
        controllers = "garbage-collector-controller,persistentvolumeclaim-protection-controller"
        self._spawn(
            "kube-controller-manager", f"--kubeconfig={kubeconfig}", "--leader-elect=false",
            f"--controllers={controllers}", "--secure-port=0",
        )  # fmt: skip

    def stop(self) -> None:
        """End all processes at once: an API server takes leave of its watchers for long."""
        for child in reversed(self._running):
            child.kill()
            child.wait()
        self._session.close()

    def request(self, method: str, path: str, body: object = None, *, patch: str = "merge") -> Any:
        """Ask the API as its admin; gives None for what isn't there."""
        kind = f"application/{patch}-patch+json" if method == "PATCH" else "application/json"
        answer = self._session.request(
            method, f"https://127.0.0.1:{self.port}{path}", json=body,
            headers={"Content-Type": kind}, timeout=30,
        )  # fmt: skip
        if answer.status_code == 404:
            return None
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def make(self, manifest: Mapping[str, Any]) -> Any:
        """Make an object, whose kind's plural is found by adding an `s`."""
        version, about = manifest["apiVersion"], manifest["metadata"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if "namespace" in about:
            base += f"/namespaces/{about['namespace']}"
        return self.request("POST", f"{base}/{_plural(manifest['kind'])}", manifest)

    def write_kubeconfig(
        self, name: str, contexts: Mapping[str, tuple[int, str]], *, namespace: str = "default"
    ) -> Path:
        """Write a kubeconfig: context → port of 127.0.0.1 and token."""
        import yaml

        path = self.directory / f"{name}.kubeconfig"
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": next(iter(contexts)),
            "clusters": [{"name": key, "cluster": {"server": f"https://127.0.0.1:{port}",
                          "certificate-authority": str(self.ca)}}
                         for key, (port, _) in contexts.items()],
            "users": [{"name": key, "user": {"token": token}}
                      for key, (_, token) in contexts.items()],
            "contexts": [{"name": key, "context": {"cluster": key, "user": key,
                          "namespace": namespace}} for key in contexts],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path

    def _write_keys(self) -> None:
        now = datetime.now(UTC)
        authority = make_authority("tests", algorithm="p256", days=2, now=now)
        spec = LeafSpec("server", "tests", "server", ("server",), dns_names=_NAMES,
                        addresses=(IPv4Address("127.0.0.1"),))  # fmt: skip
        pair = issue_leaf(spec, Issuer.load(authority), algorithm="p256", days=2, now=now)
        signer = generate_key("p256")
        tokens = f"{ADMIN},admin,admin,system:masters\n{USER},kubekiln,kubekiln\n"
        files = {"ca.crt": authority.certificate, "server.crt": pair.certificate,
                 "server.key": pair.key.reveal(), "signer.key": signer.reveal(),
                 "signer.pub": public_pem(signer), "tokens.csv": tokens.encode()}  # fmt: skip
        for name, content in files.items():
            (self.directory / name).write_bytes(content)
            (self.directory / name).chmod(0o600)

    def _start_etcd(self, port: int, peer_port: int) -> None:
        url, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        self._spawn(
            "etcd", f"--data-dir={self.directory / 'etcd'}", "--unsafe-no-fsync",
            f"--listen-client-urls={url}", f"--advertise-client-urls={url}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )  # fmt: skip

    def _start_api(self, etcd_port: int) -> None:
        certificate, key = self.certificate
        self._spawn(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}", f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}", f"--cert-dir={self.directory}",
            f"--token-auth-file={self.directory / 'tokens.csv'}", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'signer.pub'}",
            f"--service-account-signing-key-file={self.directory / 'signer.key'}",
            "--service-cluster-ip-range=10.96.0.0/24", "--endpoint-reconciler-type=none",
            "--disable-admission-plugins=ServiceAccount",
            "--kubelet-preferred-address-types=InternalIP",
        )  # fmt: skip

    def _spawn(self, name: str, *arguments: str) -> None:
        link = self.directory / "bin" / name  # the store names programs by their hash
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(self.programs[name])
        # Nothing here is to go through a proxy of the host's.
        quiet = {variable: "" for variable in os.environ if variable.lower().endswith("_proxy")}
        log = self.directory / f"{name}.log"
        self._running.append(spawn(Command([link, *arguments], env=quiet, log=log)))

    def _is_ready(self) -> bool:
        for child in self._running:
            assert child.poll() is None, self._last_words()
        with contextlib.suppress(requests.RequestException):
            url = f"https://127.0.0.1:{self.port}/readyz"
            return self._session.get(url, timeout=5).status_code == 200
        return False

    def _last_words(self) -> str:
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(log.read_text()[-2000:] for log in logs)

    def _is_established(self, crd: str) -> bool:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}"
        found = self.request("GET", path) or {}
        conditions = (found.get("status") or {}).get("conditions") or ()
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def free_ports(count: int) -> list[int]:
    """Find ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                   for _ in range(count)]  # fmt: skip
        return [int(one.getsockname()[1]) for one in sockets]


def _plural(kind: str) -> str:
    return {"NetworkAttachmentDefinition": "network-attachment-definitions"}.get(
        kind, f"{kind.lower()}s"
    )
