# SPDX-License-Identifier: Apache-2.0
"""What does an error of Azure's libraries mean to us: may it pass, and what is to be done?

The only place where their exceptions are caught. Of an answer its code and the first line of its
message are told, never a URL: it may hold a signature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.platform import TransientError

if TYPE_CHECKING:
    from azure.core.exceptions import AzureError

_PAGE = "docs/platforms/azure.md"
_LOG_IN = (
    "`az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET (or a managed "
    f"identity): see {_PAGE}"
)
_ROLES = f"the identity lacks a role on the resource group: {_PAGE} lists them"
_QUOTA = "ask for more quota in the portal (Usage + quotas), or take a smaller size"
_CAPACITY = "Azure has none of this size left there: take another size, zone or region"

# https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors
# https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes
_HINTS: Mapping[str, str] = MappingProxyType({
    "AllocationFailed": _CAPACITY,
    "AuthorizationFailed": _ROLES,
    "AuthorizationFailure": "a firewall rule of the storage account keeps us out, or " + _ROLES,
    "AuthorizationPermissionMismatch":
        "the identity needs the role Storage Blob Data Contributor on the storage account",
    "ImageNotFound": "`kubekiln upload` again",
    "InvalidAuthenticationTokenTenant": "the subscription is of another tenant: " + _LOG_IN,
    "InvalidSubscriptionId": "a subscription is given by its ID, not by its name",
    "LinkedAuthorizationFailed": _ROLES,
    "OperationNotAllowed": _QUOTA,
    "OverconstrainedAllocationRequest": _CAPACITY,
    "OverconstrainedZonalAllocationRequest": _CAPACITY,
    "PrivateIPAddressInUse": "another card has the address: is another cluster in this subnet?",
    "PrivateIPAddressNotInSubnet": "the cluster's network must be (a part of) the subnet's",
    "QuotaExceeded": _QUOTA,
    "ResourceGroupNotFound": "make it: `az group create --name NAME --location LOCATION`",
    "SkuNotAvailable": _CAPACITY,
    "SubscriptionNotFound": "`az account list` shows those that you have",
    "ZonalAllocationFailed": _CAPACITY,
})  # fmt: skip

# What Azure itself says to try again, although the status of some is 400 or 409.
_TRANSIENT_CODES = frozenset({
    "AnotherOperationInProgress", "InternalError", "InternalServerError",
    "NetworkingInternalOperationError", "NicReservedForAnotherVm", "OperationPreempted",
    "OperationTimedOut", "ReferencedResourceNotProvisioned", "RetryableError",
    "RetryableErrorDueToAnotherOperation", "ServerBusy", "ServerTimeout",
    "StorageFailure/RetryableError", "TooManyRequests",
})  # fmt: skip
_TOO_MANY = 429
_TRANSIENT_STATUSES = frozenset({408, 425, _TOO_MANY, 500, 502, 503, 504})
_STATUS_HINTS: Mapping[int, str] = MappingProxyType({
    401: _LOG_IN,
    403: _ROLES,
    404: "it isn't there: compare the names in the target's file with `az resource list`",
    409: "something that is there is in the way, or a limit of the account is reached",
})  # fmt: skip


@contextmanager
def azure_errors(doing: str) -> Iterator[None]:
    """Turn what Azure's libraries raise into our own errors that say what was being done."""
    from azure.core.exceptions import AzureError

    try:
        yield
    except AzureError as error:
        raise _as_ours(error, doing) from error


def _as_ours(error: AzureError, doing: str) -> KubekilnError:
    from azure.core import exceptions

    if isinstance(error, exceptions.HttpResponseError) and _status(error) is not None:
        return explain(doing, _status(error), code_of(error), _message(error))
    if isinstance(error, exceptions.ClientAuthenticationError):
        return KubekilnError(f"{doing}: {_message(error)}", hint=_LOG_IN)
    # The rest has no answer: not reached, cut off, broken off in the middle, not in time.
    return TransientError(f"{doing}: no answer: {_message(error)}")


def explain(doing: str, status: int | None, code: str, message: str) -> KubekilnError:
    """Make our error of an answer's status, code and message."""
    what = f"{doing}: {code or status}: {message}" if message else f"{doing}: {code or status}"
    # Too many requests to compute are 429 with the code that a quota has with another status.
    may_pass = status in _TRANSIENT_STATUSES and (status == _TOO_MANY or code not in _HINTS)
    if code in _TRANSIENT_CODES or may_pass:
        return TransientError(what)
    default = _STATUS_HINTS.get(status or 0, f"{_PAGE} explains what Azure refuses")
    return KubekilnError.of([Problem(what, hint=_HINTS.get(code, default))])


def _status(error: AzureError) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def code_of(error: AzureError) -> str:
    """Give the code of an answer, or nothing."""
    # ARM puts it into the body (`error.code`), storage into a header (`error_code`).
    inner = getattr(error, "error", None)
    code = getattr(inner, "code", None) or getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))


def _message(error: AzureError) -> str:
    inner = getattr(getattr(error, "error", None), "message", None)
    text = str(inner or getattr(error, "reason", None) or error.message or type(error).__name__)
    return text.strip().partition("\n")[0].rstrip(". \r")
