# SPDX-License-Identifier: Apache-2.0
"""What does an error of OpenStack mean: will it pass, and what can be done about it?

The only place where exceptions of openstacksdk, keystoneauth1 and requests are caught.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from keystoneauth1 import exceptions as auth
from openstack import exceptions as sdk
from requests import RequestException

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import TransientError

T = TypeVar("T")
_SHOWN = 300
# Glance's words are made for a browser.
_MARKUP = re.compile(r"<[a-z/][^>]*>")
# Nova's complaints repeat the value that it didn't like, and that may be the user-data; tokens and
# keys look like this as well.
_SECRET_LOOKING = re.compile(r"[A-Za-z0-9+/=_-]{48,}")

# Too many requests, and what a gateway or an overloaded service says. 500 is what Glance answers
# when its storage was away for a moment.
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CREDENTIALS = "check the entry in clouds.yaml, or OS_*; `openstack token issue` tries them"
_HINTS: Mapping[int, str] = {
    401: _CREDENTIALS,
    403: "the project's quota is used up, or the user's role is too small: `openstack quota show`; "
    "on a network of another project Neutron refuses MACs and addresses of one's own choice",
    404: "it was removed meanwhile, or belongs to another project or region",
    409: "something else uses the name, the address or the thing itself",
    413: "the storage is full, the project's quota is used up, or the image is larger than this "
    "cloud takes: remove old images, ask for more, or upload qcow2 instead of raw",
}
_PASSING_ERRORS = (
    auth.ConnectionError, auth.DiscoveryFailure, sdk.ServiceDiscoveryException,
    sdk.ResourceTimeout, RequestException,
)  # fmt: skip
_CONFIG_ERRORS = (
    sdk.ConfigException, auth.AuthPluginException, auth.MissingAuthMethods,
    auth.AuthorizationFailure,
)  # fmt: skip
_MISSING_SERVICE = (
    auth.CatalogException, sdk.EndpointNotFound, sdk.NotSupported, sdk.ServiceDisabledException,
)  # fmt: skip


@contextmanager
def asking(what: str, *, passing: Collection[int] = ()) -> Iterator[None]:
    """Turn what goes wrong in the block into our errors: `cannot <what>: <their reason>`.

    `passing` are statuses that will pass here, though not elsewhere.
    """
    try:
        yield
    except (sdk.SDKException, auth.ClientException, RequestException) as error:
        raise translated(what, error, passing) from error


def if_there(look: Callable[[], T]) -> T | None:
    """Give what is there, or None if the service says that there is no such thing."""
    try:
        return look()
    except sdk.NotFoundException:
        return None


def if_ready(look: Callable[[], T]) -> T | None:
    """Give what is there, or None if there is no such thing, or not yet."""
    try:
        return if_there(look)
    except sdk.ConflictException:
        return None


def service_of(choose: Callable[[], T]) -> T:
    """Choose a service of the SDK's, which asks it for its versions then.

    What it says if nobody answers ("no supported versions") is told apart here from what it says
    of a service that can't do something.
    """
    try:
        return choose()
    except sdk.NotSupported as error:
        raise sdk.ServiceDiscoveryException(str(error)) from error


def translated(what: str, error: Exception, passing: Collection[int] = ()) -> KubekilnError:
    """Make our error out of one of theirs, without anything that looks like a secret."""
    said = f"cannot {what}: {_words(error)}"
    url = getattr(error, "url", None)
    where = str(url).partition("?")[0] if url else None
    status = _status(error)
    if status is not None:
        if status in _PASSING or status in passing:
            return TransientError(said, where=where)
        return KubekilnError(said, where=where, hint=_HINTS.get(status))
    if isinstance(error, auth.SSLError):
        return KubekilnError(said, where=where, hint="`cacert` in clouds.yaml names a CA's file")
    if isinstance(error, _MISSING_SERVICE):
        return KubekilnError(said, hint="`openstack catalog list` says what the cloud has")
    if isinstance(error, _CONFIG_ERRORS):
        return KubekilnError(said, hint=_CREDENTIALS)
    if isinstance(error, _PASSING_ERRORS):
        return TransientError(said, where=where)
    return KubekilnError(said, where=where)


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None) or getattr(error, "http_status", None)
    return status if isinstance(status, int) else None


def _words(error: Exception) -> str:
    said = str(getattr(error, "details", None) or "").strip() or str(error).strip()
    text = " ".join(_MARKUP.sub(" ", said or type(error).__name__).split())
    return _SECRET_LOOKING.sub("***", text)[:_SHOWN]
