# SPDX-License-Identifier: Apache-2.0
"""How is a Kubernetes API asked for objects, and what do its refusals mean to us?

Objects are plain JSON, and so nothing of the client's generated models is loaded or believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import urllib3

from kubekiln.paths import kubeconfig_files
from pipeline.targets.kubeerrors import Exists, Missing, NotYet, Refused, errors_of, refusal
from pipeline.targets.platform import TransientError

if TYPE_CHECKING:
    from kubernetes import client

Object = Mapping[str, Any]

# A server that answers nothing for so long is taken for gone; watches are shorter.
_TIMEOUT_S = (10.0, 60.0)
_WATCH_S = 30
_PAUSE_S = 0.5
# https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_MERGE = "application/merge-patch+json"
# A field that the server doesn't know is an error; it would be dropped, and the machine be another.
_STRICT = {"fieldValidation": "Strict"}


@dataclass(frozen=True)
class Kind:
    """A kind of objects, as the API names it; group `""` is the core's."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


SECRET = Kind("", "v1", "secrets", "Secret")
POD = Kind("", "v1", "pods", "Pod")
_REVIEW = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
    is_namespaced=False,
)  # fmt: skip


class KubeApi:
    """The API of one cluster, in one namespace; safe for threads."""

    def __init__(self, *, context: str | None = None, namespace: str | None = None) -> None:
        self._context, self._namespace = context, namespace

    @property
    def namespace(self) -> str:
        """Where objects are made: that of the settings, else the context's, else `default`."""
        return self._namespace or self._loaded[1]

    def get(self, kind: Kind, name: str, *, namespace: str | None = None) -> Object | None:
        """Read an object (of another namespace, if one is named); None if there is none."""
        with errors_of(f"{kind} {name}"), contextlib.suppress(Missing):
            path = self._path(kind, name, namespace=namespace)
            found: Object = self._request("GET", path, hide=kind == SECRET)
            return found
        return None

    def list(self, kind: Kind, selector: str = "") -> list[Object]:
        """List the objects of the namespace that bear labels."""
        with errors_of(str(kind)):
            query = {"labelSelector": selector}
            items: list[Object] = self._request("GET", self._path(kind), query=query)["items"]
            return items

    def create(self, kind: Kind, body: Object) -> Object | None:
        """Make an object; None if there is one of this name."""
        name = body["metadata"]["name"]
        with errors_of(f"{kind} {name}"), contextlib.suppress(Exists):
            made: Object = self._request(
                "POST", self._path(kind), body=body, query=_STRICT, hide=kind == SECRET
            )
            return made
        return None

    def patch(self, kind: Kind, name: str, body: Object) -> Object:
        """Change fields of an object (JSON merge patch)."""
        with errors_of(f"{kind} {name}"):
            changed: Object = self._request(
                "PATCH", self._path(kind, name), body=body, query=_STRICT
            )
            return changed

    def delete(self, kind: Kind, name: str, *, timeout_s: float) -> None:
        """Remove an object after all that it owns; return when it is gone, fine if it is."""
        with errors_of(f"{kind} {name}"), contextlib.suppress(Missing):
            how = {"propagationPolicy": "Foreground"}
            self._request("DELETE", self._path(kind, name), body=how)
            self.wait(kind, name, lambda found: found is None, timeout_s=timeout_s)

    def wait(
        self, kind: Kind, name: str, done: Callable[[Object | None], bool], *, timeout_s: float
    ) -> Object | None:
        """Watch an object until it is as wanted (None: it is gone), and give it.

        Raises TransientError when time is over.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.get(kind, name)
            if done(found):
                return found
            if time.monotonic() > deadline:
                raise TransientError(f"{kind} {name} is not as wanted after {timeout_s:g} s")
            if not self._watch(kind, name, found, done):
                time.sleep(_PAUSE_S)

    def may(
        self, verb: str, kind: Kind, subresource: str = "", *, namespace: str | None = None
    ) -> bool:
        """Ask whether we may do something in the namespace (or in another one)."""
        attributes = {"namespace": namespace or self.namespace, "verb": verb, "group": kind.group,
                      "resource": kind.plural, "subresource": subresource}  # fmt: skip
        with errors_of("our own permissions"):
            body = {"spec": {"resourceAttributes": attributes}}
            answer = self._request("POST", self._path(_REVIEW), body=body)
            return bool(answer["status"]["allowed"])

    def groups(self) -> set[str]:
        """List the API's groups with their versions, such as `kubevirt.io/v1`."""
        with errors_of("the groups of the API"):
            found = self._request("GET", "/apis")["groups"]
            return {v["groupVersion"] for group in found for v in group["versions"]}

    def pod_log(self, pod: str, container: str) -> str | None:
        """Read what a container of a pod wrote; None if it has written nothing yet."""
        path = self._path(POD, f"{pod}/log")
        with errors_of(f"the log of {pod}"), contextlib.suppress(Missing, NotYet):
            answer = self._raw("GET", path, query={"container": container})
            text: bytes = answer.data
            return text.decode(errors="replace")
        return None

    def _watch(
        self, kind: Kind, name: str, found: Object | None, done: Callable[[Object | None], bool]
    ) -> bool:
        """Tell whether it became as wanted while it was watched; a watch may end for any reason."""
        query = {"watch": "true", "fieldSelector": f"metadata.name={name}",
                 "timeoutSeconds": str(_WATCH_S), "resourceVersion": _version(found)}  # fmt: skip
        try:
            with contextlib.closing(self._stream(self._path(kind), query)) as answer:
                for line in _lines(answer):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return False  # too old a version: what it is now is read again
                    if done(None if event["type"] == "DELETED" else event["object"]):
                        return True
        except (urllib3.exceptions.HTTPError, Refused):
            return False  # if it wasn't the watch alone, reading the object will say so
        return False

    def _stream(self, path: str, query: Mapping[str, str]) -> Any:
        return self._raw("GET", path, query=query, stream=True)

    def _path(self, kind: Kind, name: str = "", *, namespace: str | None = None) -> str:
        parts = ["", "apis", kind.group] if kind.group else ["", "api"]
        parts.append(kind.version)
        if kind.is_namespaced:
            parts += ["namespaces", namespace or self.namespace]
        return "/".join([*parts, kind.plural, *filter(None, [name])])

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        hide: bool = False,
    ) -> Any:
        return json.loads(self._raw(method, path, body=body, query=query, hide=hide).data)

    def _raw(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        stream: bool = False,
        hide: bool = False,
    ) -> Any:
        api = self._loaded[0]
        headers = {**api.default_headers, "Accept": "application/json, */*"}
        for auth in api.configuration.auth_settings().values():
            headers[auth["key"]] = auth["value"]
        if body is not None:
            headers["Content-Type"] = _MERGE if method == "PATCH" else "application/json"
        url = f"{api.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
        answer = api.rest_client.pool_manager.request(
            method, url, body=None if body is None else json.dumps(body), headers=headers,
            timeout=urllib3.Timeout(*_TIMEOUT_S), preload_content=not stream, redirect=False,
        )  # fmt: skip
        if answer.status >= 300:
            raise refusal(answer.status, answer.data, hide=hide)
        return answer

    @cached_property
    def _loaded(self) -> tuple[client.ApiClient, str]:
        with errors_of("the kubeconfig"):
            return _load(self._context)


def _load(context: str | None) -> tuple[client.ApiClient, str]:
    """Open the cluster of the kubeconfig's context; without a kubeconfig, the one we run in."""
    from kubernetes import client
    from kubernetes import config as untyped

    config: Any = untyped
    there = [str(path) for path in kubeconfig_files() if path.is_file()]
    if not there:
        inside = client.Configuration()
        config.load_incluster_config(inside)
        return client.ApiClient(inside), _OWN_NAMESPACE.read_text().strip()
    files = os.pathsep.join(there)
    contexts, active = config.list_kube_config_contexts(files)
    chosen = next((c for c in contexts if c["name"] == context), active)
    api = config.new_client_from_config(files, context=context)
    return api, chosen["context"].get("namespace") or "default"


def _version(found: Object | None) -> str:
    return str(found["metadata"]["resourceVersion"]) if found else "0"


def _lines(answer: Any) -> Iterator[bytes]:
    """Split a stream at line ends, whatever pieces it comes in."""
    rest = b""
    for piece in answer.stream(1 << 16, decode_content=True):
        *whole, rest = (rest + piece).split(b"\n")
        yield from filter(None, whole)
