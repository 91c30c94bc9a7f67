# SPDX-License-Identifier: Apache-2.0
"""What does an error of Proxmox' API mean to us: may it pass, and what is to be done?

The only place where exceptions of proxmoxer and of the HTTP library under it are caught. What Perl
code on the server dies of comes as status 500 with a sentence; some of these sentences pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import TransientError

if TYPE_CHECKING:
    from proxmoxer import ResourceException

_PAGE = "docs/platforms/proxmox.md"
_LOG_IN = (
    f"set PROXMOX_VE_API_TOKEN to USER@REALM!NAME=SECRET of a token that is valid: see {_PAGE}"
)
# 595 to 599 are pveproxy's own: the host that it passes requests on to can't be reached.
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 502, 503, 504, 595, 596, 597, 598, 599})
_PASSING = re.compile(
    r"got timeout|got lock (request )?timeout|can't lock file|is locked|no quorum"
    r"|cluster not ready|got no worker upid|connection refused|interrupted by signal"
    r"|temporarily unavailable",
    re.IGNORECASE,
)
_EXISTS = re.compile(r"(VM|CT) \d+ already exists", re.IGNORECASE)
_MISSING = re.compile(r"configuration file .* does not exist", re.IGNORECASE)
_SENTENCES: Mapping[str, str] = MappingProxyType({
    r"no space left|not enough (free )?space|out of space|quota exceeded":
        "free space on the storage, or name another one in the target's file",
    r"shrinking disks is not supported": "`disk_gib` of the node must be at least the image's size",
    r"checksum mismatch": "the upload was damaged on its way: try again",
    r"does not support vm images|does not support '\w+' content":
        "Datacenter → Storage → Edit → Content: allow what the target's file wants of it",
    r"permission check failed": f"the token lacks a privilege; {_PAGE} lists them",
})  # fmt: skip
_STATUS_HINTS: Mapping[int, str] = MappingProxyType({
    400: f"is it Proxmox VE 8.4 or newer? {_PAGE} says what is asked of it",
    401: _LOG_IN,
    403: f"the token lacks a privilege; {_PAGE} lists them",
    501: "is it Proxmox VE 8.4 or newer?",
})  # fmt: skip


class ExistsError(KubekilnError):
    """The number is already another machine's."""


class MissingError(KubekilnError):
    """There is no machine of this number."""


@contextmanager
def proxmox_errors(doing: str) -> Iterator[None]:
    """Turn what the libraries raise into our own errors that say what was being done."""
    import requests
    from proxmoxer import AuthenticationError, ResourceException

    try:
        yield
    except ResourceException as error:
        raise explain(doing, error.status_code, _sentence(error)) from error
    except AuthenticationError as error:
        # Its text has the user's name, and never the password.
        raise KubekilnError(f"{doing}: {_first_line(str(error))}", hint=_LOG_IN) from error
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise TransientError(f"{doing}: the connection was cut") from error
        raise KubekilnError(
            f"{doing}: the server's certificate isn't trusted",
            hint="`ca_file:` names who signed it: /etc/pve/pve-root-ca.pem of a host",
        ) from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout,
            requests.exceptions.ChunkedEncodingError) as error:  # fmt: skip
        raise TransientError(f"{doing}: no answer ({type(error).__name__})") from error


def explain(doing: str, status: int, sentence: str) -> KubekilnError:
    """Make our error of an answer's status and sentence."""
    what = f"{doing}: {sentence or f'HTTP status {status}'}"
    if _EXISTS.search(sentence):
        return ExistsError(what)
    if status == 404 or _MISSING.search(sentence):
        return MissingError(what)
    if status in _TRANSIENT_STATUSES or may_pass(sentence):
        return TransientError(what)
    return KubekilnError(what, hint=hint_of(sentence) or _STATUS_HINTS.get(status, _default_hint()))


def may_pass(sentence: str) -> bool:
    """Tell whether the same may succeed if it is asked again, by what an answer or a task says."""
    return bool(_PASSING.search(sentence))


def hint_of(sentence: str) -> str | None:
    """Give what helps against what a task, or an answer, says."""
    for pattern, hint in _SENTENCES.items():
        if re.search(pattern, sentence, re.IGNORECASE):
            return hint
    return None


def _default_hint() -> str:
    return f"the task log of the host says more; {_PAGE} explains what is asked of it"


def _sentence(error: ResourceException) -> str:
    # The sentence is the HTTP reason; of refused parameters, each one's is in `errors`.
    wrong = error.errors if isinstance(error.errors, dict) else {}
    parts = [_first_line(str(error.content or ""))]
    parts += [
        f"{key}: {_first_line(str(value))}" for key, value in wrong.items() if key != "errors"
    ]
    return "; ".join(part for part in parts if part)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].rstrip(". ")
