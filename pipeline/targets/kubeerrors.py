# SPDX-License-Identifier: Apache-2.0
"""What does a refusal of a Kubernetes API, or of its client, mean to us?"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3
import yaml

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import TransientError

_SHOWN = 300
# https://kubernetes.io/docs/reference/using-api/api-concepts/: conflicts, throttling and server
# errors are the client's to try again; 410 ends a watch.
_TRANSIENT = (409, 410, 429, 500, 502, 503, 504)
_HINTS = {
    401: "check the user of this context: kubectl auth whoami",
    403: "docs/platforms/kubevirt.md lists the permissions; a quota may be used up as well",
    404: "is KubeVirt, with CDI, installed there? kubectl api-resources",
    413: "the API server takes objects of at most 1.5 MiB",
}


class Refused(Exception):
    """The server said no."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"HTTP {status}" + (f": {said[:_SHOWN]}" if said else ""))
        self.status = status


class Missing(Refused):
    """There is no such object."""


class Exists(Refused):
    """There is an object of this name."""


class NotYet(Refused):
    """The pod's container hasn't started."""


def refusal(status: int, content: bytes, *, hide: bool) -> Refused:
    """Make the exception of an answer; `hide` where its message may quote a secret."""
    about = _status(content)
    reason, message = str(about.get("reason", "")), str(about.get("message", ""))
    said = reason if hide else message or content.decode(errors="replace").strip()
    if status == 404 and (about.get("details") or {}).get("name"):
        return Missing(status, said)
    if status == 409 and reason == "AlreadyExists":
        return Exists(status, said)
    if status == 400 and "waiting to start" in message:
        return NotYet(status, said)
    return Refused(status, said)


@contextlib.contextmanager
def errors_of(what: str) -> Iterator[None]:
    """Name what was asked for in every error, and let none of the client's out."""
    from kubernetes.config import ConfigException

    try:
        yield
    except Refused as error:
        if error.status in _TRANSIENT:
            raise TransientError(f"{what}: {error}") from error
        hint = _HINTS.get(error.status, "see docs/platforms/kubevirt.md")
        raise KubekilnError(f"{what}: {error}", hint=hint) from error
    except (urllib3.exceptions.HTTPError, ConnectionError) as error:
        raise connection_error(what, error) from error
    except ConfigException as error:
        hint = "KUBECONFIG, else ~/.kube/config, is read; `context` chooses among its contexts"
        raise KubekilnError(f"{what}: {error}", hint=hint) from error
    except (yaml.YAMLError, OSError) as error:
        raise KubekilnError(f"{what}: {error}", hint="is the kubeconfig whole?") from error
    except json.JSONDecodeError as error:
        hint = "is the server of this context a Kubernetes API?"
        raise KubekilnError(f"{what}: the answer isn't JSON", hint=hint) from error


def connection_error(what: str, error: Exception) -> KubekilnError:
    """Tell a certificate that isn't believed from a connection that may work next time."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        hint = "name the authority that signed it: in the kubeconfig, or as `upload_proxy_ca`"
        return KubekilnError(f"{what}: the server's certificate isn't believed", hint=hint)
    return TransientError(f"{what}: no answer ({type(error).__name__})")


def _status(content: bytes) -> Mapping[str, Any]:
    """Read the Status object that comes with a refusal, if one came."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}
