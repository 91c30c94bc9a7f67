# SPDX-License-Identifier: Apache-2.0
"""How does the approver list, watch and decide CertificateSigningRequests over the API?"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import yaml

from kubekiln_node.csr_request import SERVING_SIGNER

if TYPE_CHECKING:
    from collections.abc import Iterator

NODES = "/api/v1/nodes"
DECLARED = "/api/v1/namespaces/kube-system/configmaps/kubekiln-nodes"
BASE = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SERVING_ONLY = {"fieldSelector": f"spec.signerName={SERVING_SIGNER}"}
TIMEOUT_S = 15.0
WATCH_S = 300

Object = dict[str, object]


class ApiError(Exception):
    """The API server refused, or did not answer as it should."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


class Kubeconfig(NamedTuple):
    """The current context of a kubeconfig that names certificate files."""

    server: str
    ca: str
    cert: str
    key: str


def read_kubeconfig(path: str) -> Kubeconfig:
    """Read the current context; raises ValueError for one that we can't use, OSError without it."""
    with open(path, encoding="utf-8") as stream:
        try:
            raw = yaml.safe_load(stream)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {error}") from None
    try:
        context = _named(raw["contexts"], raw["current-context"])["context"]
        cluster = _named(raw["clusters"], context["cluster"])["cluster"]
        user = _named(raw["users"], context["user"])["user"]
        here = os.path.dirname(os.path.abspath(path))
        return Kubeconfig(
            server=cluster["server"],
            ca=os.path.join(here, cluster["certificate-authority"]),
            cert=os.path.join(here, user["client-certificate"]),
            key=os.path.join(here, user["client-key"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lacks {error} (certificates are named as files)") from None


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise KeyError(name)


class CsrClient:
    """A client for one resource; each call has its own connection, so a restart costs nothing."""

    def __init__(self, config: Kubeconfig, *, serving_only: bool = True) -> None:
        self._config = config
        # A selector names one signer; with pools there are two that matter.
        self._selector = SERVING_ONLY if serving_only else {}
        self._address = urlsplit(config.server)

    def list_all(self) -> tuple[list[Object], str]:
        """List the requests and the resource version to watch from."""
        found = self._ask("GET", f"{BASE}?{urlencode(self._selector)}")
        metadata, items = found.get("metadata"), found.get("items")
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        return (items if isinstance(items, list) else []), str(version or "0")

    def watch(self, version: str) -> Iterator[Object]:
        """Yield requests as they come or change, until the server ends the watch."""
        wanted = {"watch": "1", "resourceVersion": version, "timeoutSeconds": WATCH_S}
        query = self._selector | wanted
        connection = self._connect(WATCH_S + TIMEOUT_S)
        try:
            connection.request("GET", f"{BASE}?{urlencode(query)}")
            answer = connection.getresponse()
            if answer.status != 200:
                raise ApiError(answer.status, answer.read(500).decode(errors="replace"))
            while line := answer.readline():
                event = json.loads(line)
                if event.get("type") == "ERROR":  # mostly 410 Gone: list anew
                    raise ApiError(int(event["object"].get("code", 0)), "watch ended by the server")
                if event.get("type") in ("ADDED", "MODIFIED"):
                    yield event["object"]
        finally:
            connection.close()

    def get_node(self, name: str) -> Object | None:
        """Get a Node; None if there is none of this name."""
        return self._find(f"{NODES}/{quote(name, safe='')}")

    def get_declared(self) -> Object | None:
        """Get the ConfigMap of the nodes that are declared today; None if there is none."""
        return self._find(DECLARED)

    def list_nodes(self) -> list[Object]:
        """List the Nodes; all, since each kubelet gives its own the labels that it likes."""
        found = self._ask("GET", NODES).get("items")
        return found if isinstance(found, list) else []

    def decide(self, csr: Object, condition: Object) -> None:
        """Record a decision; raises ApiError (409 if somebody was quicker)."""
        metadata = csr["metadata"]
        assert isinstance(metadata, dict)
        status = csr.get("status")
        decided = {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            **csr,
            "status": {**(status if isinstance(status, dict) else {}), "conditions": [condition]},
        }
        self._ask("PUT", f"{BASE}/{quote(metadata['name'], safe='')}/approval", decided)

    def _find(self, path: str) -> Object | None:
        try:
            return self._ask("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def _ask(self, method: str, path: str, body: Object | None = None) -> Object:
        connection = self._connect(TIMEOUT_S)
        try:
            connection.request(
                method,
                path,
                body=json.dumps(body) if body is not None else None,
                headers={"Content-Type": "application/json", "Accept": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise ApiError(answer.status, text[:500].decode(errors="replace"))
        found = json.loads(text)
        return found if isinstance(found, dict) else {}

    def _connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        # A new context each time: the certificates may have been renewed on disk.
        context = ssl.create_default_context(cafile=self._config.ca)
        context.load_cert_chain(self._config.cert, self._config.key)
        return http.client.HTTPSConnection(
            str(self._address.hostname),
            self._address.port or 443,
            timeout=timeout_s,
            context=context,
        )
