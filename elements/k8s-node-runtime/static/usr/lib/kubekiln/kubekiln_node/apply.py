# SPDX-License-Identifier: Apache-2.0
"""Are the objects of a directory in the cluster as its files say? Makes them so.

Server-side apply, as `kubectl apply --server-side --force-conflicts` does it, but with strict
validation: a misspelt field is an error. kubectl would first fetch megabytes of schemas for that;
and without it, it still costs a second, half a minute on an emulated CPU.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode

import yaml

from kubekiln_node.api import client_context, split_server
from kubekiln_node.console import fail

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

TIMEOUT_S = 60.0
# A kind that a CustomResourceDefinition of the same directory brings is served a moment later.
UNKNOWN_KIND_S = 30.0
PAUSE_S = 0.5
APPLY = "application/apply-patch+yaml"
OPTIONS = urlencode({"fieldManager": "kubekiln", "fieldValidation": "Strict", "force": "true"})

Object = dict[str, Any]


class ApplyError(Exception):
    """An object that the API doesn't take, or a file that can't be read."""


class Resource(NamedTuple):
    """Where the objects of one kind are in the API."""

    name: str
    namespaced: bool


class Client(Protocol):
    """What applying needs of the API."""

    def ask(self, method: str, path: str, body: Object | None = None) -> tuple[int, Object]:
        """Send one request; gives status and the answer's JSON object. Raises OSError."""


def main() -> int:
    """Apply as the command line says; 1 with every reason if something isn't as it should be."""
    parser = argparse.ArgumentParser(prog="apply", description=__doc__)
    parser.add_argument("--server", required=True, help="https://HOST:PORT")
    parser.add_argument("--ca", required=True)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--directory", required=True, help="of .yaml and .json files")
    args = parser.parse_args()
    try:
        context = client_context(ca=args.ca, cert=args.cert, key=args.key)
        objects = list(read_objects(args.directory))
    except (OSError, ApplyError) as error:
        return fail(f"apply: {error}")
    problems = apply_all(objects, HttpClient(args.server, context))
    for problem in problems:
        fail(f"apply: {problem}")
    print(f"apply: {len(objects) - len(problems)} of {len(objects)} objects are as in the files")
    return 1 if problems else 0


def read_objects(directory: str) -> Iterator[tuple[str, Object]]:
    """Yield (file name, object) of each document, in the order of the names; lists taken apart."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for name in sorted(os.listdir(directory)):
        if not name.endswith((".yaml", ".yml", ".json")):
            continue
        with open(os.path.join(directory, name), encoding="utf-8") as stream:
            try:
                documents = list(yaml.load_all(stream, loader))
            except yaml.YAMLError as error:
                raise ApplyError(f"{name} is no YAML: {error}") from None
        for document in documents:
            if document is None:
                continue
            for item in document.get("items", [document]) if _is_list(document) else [document]:
                if not isinstance(item, dict) or not {"apiVersion", "kind"} <= item.keys():
                    raise ApplyError(f"{name} holds what is no Kubernetes object")
                yield name, item


def apply_all(
    objects: list[tuple[str, Object]],
    client: Client,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Apply each object in order; what went wrong, a line an object."""
    kinds: dict[str, dict[str, Resource]] = {}
    unknown: set[tuple[str, str]] = set()
    problems = []
    for source, item in objects:
        about = f"{source}: {item['kind']} {item.get('metadata', {}).get('name', '?')}"
        try:
            resource = _find_resource(item, client, kinds, unknown, sleep=sleep, clock=clock)
            status, answer = client.ask("PATCH", f"{path_of(item, resource)}?{OPTIONS}", item)
        except (OSError, http.client.HTTPException, ApplyError) as error:
            problems.append(f"{about}: {error}")
            continue
        if status not in (200, 201):
            problems.append(f"{about}: {status} {answer.get('message', 'no reason given')}")
    return problems


def _find_resource(
    item: Object,
    client: Client,
    kinds: dict[str, dict[str, Resource]],
    unknown: set[tuple[str, str]],
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> Resource:
    version, kind = str(item["apiVersion"]), str(item["kind"])
    # Waited for once, not for each of its objects.
    give_up_at = clock() + (0.0 if (version, kind) in unknown else UNKNOWN_KIND_S)
    while kind not in kinds.get(version, {}):
        kinds[version] = discover(client, version)
        if kind in kinds[version]:
            break
        if clock() >= give_up_at:
            unknown.add((version, kind))
            raise ApplyError(f"the API has no kind {kind} in {version}")
        sleep(PAUSE_S)
    return kinds[version][kind]


def discover(client: Client, version: str) -> dict[str, Resource]:
    """Ask for the kinds of one API version; empty while there is no such version."""
    status, answer = client.ask("GET", root_of(version))
    if status == 404:
        return {}
    if status != 200:
        raise ApplyError(f"{status} {answer.get('message', 'no reason given')}")
    return {
        entry["kind"]: Resource(entry["name"], entry["namespaced"])
        for entry in answer.get("resources", [])
        if "/" not in entry["name"]
    }


def root_of(version: str) -> str:
    """Name the path of an API version: `v1` is the only one without a group."""
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def path_of(item: Object, resource: Resource) -> str:
    """Name the path of one object."""
    metadata = item["metadata"]
    inner = ""
    if resource.namespaced:
        inner = f"/namespaces/{quote(metadata.get('namespace', 'default'), safe='')}"
    name = quote(metadata["name"], safe="")
    return f"{root_of(item['apiVersion'])}{inner}/{resource.name}/{name}"


def _is_list(document: object) -> bool:
    return isinstance(document, dict) and document.get("kind") == "List"


class HttpClient:
    """One connection for all requests: a TLS handshake is what costs."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        host, port = split_server(server)
        self._connection = http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_S, context=context
        )

    def ask(self, method: str, path: str, body: Object | None = None) -> tuple[int, Object]:
        """Send one request; a connection that was closed meanwhile is made anew by http.client."""
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = APPLY
        try:
            self._connection.request(
                method, path, json.dumps(body) if body is not None else None, headers
            )
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        try:
            found = json.loads(data)
        except ValueError:
            found = {}
        return answer.status, found if isinstance(found, dict) else {}
