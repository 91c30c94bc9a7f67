# SPDX-License-Identifier: Apache-2.0
"""How is AWS asked, and what do its errors, and its SDK's, mean to us?

The only place where exceptions of boto3 are caught. What is tried again is not decided here: a call
is made once (EBS blocks excepted, of which one that was refused must not end an upload).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import boto3
from botocore import exceptions as sdk
from botocore.config import Config
from botocore.parsers import ResponseParserError

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import TransientError

_LONGEST_MESSAGE = 300
_SERVER_ERROR = 500
_REFUSED = (401, 403)

# EC2: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
# EBS: https://docs.aws.amazon.com/ebs/latest/APIReference/CommonErrors.html, and each action's own.
TRANSIENT_CODES: Final = frozenset({
    "BandwidthLimitExceeded", "ConcurrentLimitExceededException", "ConflictException",
    "EC2ThrottledException", "IncorrectInstanceState", "IncorrectState",
    "InsufficientAddressCapacity", "InsufficientCapacity", "InsufficientHostCapacity",
    "InsufficientInstanceCapacity", "InsufficientVolumeCapacity", "InternalError",
    "InternalFailure", "InternalServerException", "InvalidAMIID.Unavailable",
    "InvalidIPAddress.InUse", "InvalidSnapshot.InUse", "RequestLimitExceeded",
    "RequestThrottled", "RequestThrottledException", "RequestTimeout",
    "RequestTimeoutException", "ServerInternal", "ServiceUnavailable", "SlowDown", "Throttling",
    "ThrottlingException", "ThrottledException", "TooManyRequestsException", "Unavailable",
})  # fmt: skip

_CREDENTIALS = (
    "check the credentials that the AWS tools find: `aws sts get-caller-identity` with the same "
    "profile"
)
_ALLOWED = "let the credentials do that: docs/platforms/aws.md lists what is asked for"
_QUOTA = "remove what isn't needed, or ask for more in Service Quotas"
_SETTINGS = "check the target's settings; names are looked for in its region and account"

HINTS: Final[Mapping[str, str]] = MappingProxyType({
    **dict.fromkeys(
        ("AuthFailure", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId",
         "MissingAuthenticationToken", "SignatureDoesNotMatch", "UnrecognizedClientException"),
        f"{_CREDENTIALS}; a clock that is wrong by minutes has the same effect",
    ),
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "RequestExpired"),
        "log in again (`aws sso login`), and check the clock of this host",
    ),
    **dict.fromkeys(("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"), _ALLOWED),
    **dict.fromkeys(
        ("OptInRequired", "PendingVerification", "Blocked", "NotSignedUp"),
        "the account can't use this service or region yet: see the account's console",
    ),
    **dict.fromkeys(
        ("ConcurrentSnapshotLimitExceeded", "InstanceLimitExceeded", "MaxIOPSLimitExceeded",
         "NetworkInterfaceLimitExceeded", "PendingSnapshotLimitExceeded", "ResourceLimitExceeded",
         "ServiceQuotaExceededException", "SnapshotLimitExceeded", "TagLimitExceeded",
         "VcpuLimitExceeded", "VolumeLimitExceeded"),
        _QUOTA,
    ),
    **dict.fromkeys(
        ("InvalidSubnetID.NotFound", "InvalidGroup.NotFound", "InvalidGroupId.Malformed",
         "InvalidInstanceType", "InvalidKMSKey.InvalidState", "InvalidParameterValue",
         "InvalidSecurityGroupID.NotFound", "InvalidSubnetId.Malformed", "Unsupported"),
        _SETTINGS,
    ),
    "InsufficientFreeAddressesInSubnet": "take a larger subnet, or remove what uses its addresses",
    "InsufficientInstanceCapacity": "try later, another instance_type, or another zone's subnet",
    "InvalidBlockDeviceMapping": "the node's disk_gib must be at least the image's size",
    "InvalidIPAddress.InUse": "another machine has that address: one of an old cluster?",
    "OperationNotPermitted": "is the machine protected from termination? lift that first",
})  # fmt: skip


class AwsError(KubekilnError):
    """AWS refused; asking again won't help."""

    code = ""


class AwsBusyError(TransientError):
    """AWS, or the way to it, may do better in a moment."""

    code = ""


class Api:
    """One service, asked by the names that boto3 has for its actions."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._service = client.meta.service_model.service_name

    def __call__(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Ask once; raises AwsError or TransientError."""
        with sdk_errors(f"{self._service} {action}"):
            answer: dict[str, Any] = getattr(self._client, action)(**arguments)
            return answer

    def pages(self, action: str, key: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Give the items below `key` of all pages of a list."""
        token: dict[str, str] = {}
        while True:
            answer = self(action, **arguments, **token)
            yield from answer.get(key, ())
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def read(self, action: str, key: str, **arguments: Any) -> bytes:
        """Ask once, and read the answer's stream to its end."""
        with sdk_errors(f"{self._service} {action}"):
            data: bytes = getattr(self._client, action)(**arguments)[key].read()
            return data

    def wait(self, condition: str, **arguments: Any) -> None:
        """Return when one of botocore's conditions holds; ten minutes at most."""
        with sdk_errors(f"{self._service} {condition}"):
            waiter = self._client.get_waiter(condition)
            waiter.wait(**arguments, WaiterConfig={"Delay": 5, "MaxAttempts": 120})


class Connection:
    """Clients of the services that are used, made when they are first asked for."""

    def __init__(
        self, *, profile: str | None, region: str | None, endpoint: str | None, connections: int
    ) -> None:
        self._profile, self._region, self._endpoint = profile, region, endpoint
        self._connections = connections
        self._lock = threading.Lock()
        self._session: boto3.Session | None = None
        self._made: dict[tuple[str, int], Api] = {}

    def api(self, service: str, *, attempts: int = 1) -> Api:
        """Give a service; its client may be used by several threads."""
        with self._lock:
            # Making clients isn't thread-safe, using them is (boto3's guide, "Clients").
            if (service, attempts) not in self._made:
                self._made[service, attempts] = Api(self._client(service, attempts))
            return self._made[service, attempts]

    def _client(self, service: str, attempts: int) -> Any:
        config = Config(
            retries={"total_max_attempts": attempts, "mode": "standard"},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=self._connections,
            user_agent_extra="kubekiln",
        )
        with sdk_errors(f"{service} client"):
            if self._session is None:
                self._session = boto3.Session(profile_name=self._profile, region_name=self._region)
            return self._session.client(
                service,  # type: ignore[call-overload]
                endpoint_url=self._endpoint,
                config=config,
            )


@contextlib.contextmanager
def sdk_errors(where: str) -> Iterator[None]:
    """Turn whatever boto3 raises into an AwsError or a TransientError that says what was asked."""
    try:
        yield
    except sdk.ClientError as error:
        raise refusal(error.response, where) from error
    except sdk.WaiterError as error:
        raise _not_waited_for(error, where) from error
    except (sdk.BotoCoreError, ResponseParserError) as error:
        raise _own_error(error, where) from error


def refusal(response: Mapping[str, Any], where: str) -> AwsError | AwsBusyError:
    """Make the error of an answer that is one."""
    code = str(response.get("Error", {}).get("Code") or "unknown")
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    busy = code in TRANSIENT_CODES or status >= _SERVER_ERROR
    kind = AwsBusyError if busy else AwsError
    # UnauthorizedOperation appends some KB of base64 that only `aws sts
    # decode-authorization-message` can read.
    said = str(response.get("Error", {}).get("Message") or "no message")
    said = " ".join(said.partition(" Encoded authorization failure message")[0].split())
    hint = HINTS.get(code) or (_ALLOWED if status in _REFUSED else None)
    error = kind(f"{code}: {said[:_LONGEST_MESSAGE].rstrip('.')}", where=where, hint=hint)
    error.code = code
    return error


def _not_waited_for(error: sdk.WaiterError, where: str) -> AwsError | AwsBusyError:
    if isinstance(error.last_response, Mapping) and error.last_response.get("Error"):
        return refusal(error.last_response, where)
    if "terminal failure" in str(error):
        return AwsError(f"it failed: {error}", where=where, hint="see the service's console")
    return AwsBusyError(f"not done yet: {error}", where=where, hint="see the service's console")


_SDK_HINTS: Final[tuple[tuple[type[sdk.BotoCoreError], str], ...]] = (
    (sdk.ProfileNotFound, "name one that `aws configure list-profiles` shows"),
    (sdk.NoRegionError, "set `region` in the target's file, or in the AWS profile"),
    (sdk.InvalidRegionError, "check `region` in the target's file"),
    (sdk.NoCredentialsError, "`aws configure`, `aws sso login`, or the usual AWS_… variables"),
    (sdk.PartialCredentialsError, _CREDENTIALS),
    (sdk.CredentialRetrievalError, _CREDENTIALS),
    (sdk.SSOError, "log in again: `aws sso login`"),
    (sdk.TokenRetrievalError, "log in again: `aws sso login`"),
    (sdk.SSLError, "name the authority in `ca_bundle` of the AWS profile, or in AWS_CA_BUNDLE"),
)
# Whose text is ours to keep to ourselves: it quotes the arguments, user-data among them.
_QUOTES_ARGUMENTS: Final = (sdk.ParamValidationError, sdk.ValidationError)
# ResponseParserError: a proxy's page instead of an answer.
_PASSES: Final = (sdk.ConnectionError, sdk.HTTPClientError, sdk.IncompleteReadError,
                  sdk.MetadataRetrievalError, ResponseParserError)  # fmt: skip


def _own_error(
    error: sdk.BotoCoreError | ResponseParserError, where: str
) -> AwsError | AwsBusyError:
    if isinstance(error, _QUOTES_ARGUMENTS):
        what = f"boto3 {boto3.__version__} refuses the request ({type(error).__name__})"
        return AwsError(what, where=where, hint="install boto3 1.35 or later")
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}"[:_LONGEST_MESSAGE].rstrip(".")
    hint = next((hint for kind, hint in _SDK_HINTS if isinstance(error, kind)), None)
    if hint is None and isinstance(error, _PASSES):
        return AwsBusyError(said, where=where, hint="is the endpoint reachable from here?")
    return AwsError(said, where=where, hint=hint)
