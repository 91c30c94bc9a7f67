# SPDX-License-Identifier: Apache-2.0
"""How is Proxmox' API spoken to: with which credentials, and when is a task done?

Credentials come from where tools for Proxmox look: the variables of its Terraform provider, of
Ansible's collection, or of tools made with proxmoxer. None is ever read from our files.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.secret import Secret
from pipeline.targets.platform import Advance, TransientError
from pipeline.targets.proxmox_errors import hint_of, may_pass, proxmox_errors

# A host may be busy with other people's disks when it answers.
_TIMEOUT_S = 120
_TASK_WITHIN_S = 7200.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 3.0
_UNANSWERED = 10
# As long as pveproxy needs to start again.
_UNANSWERED_WAIT_S = 1.0
"""So many questions in a row may stay without an answer before we stop waiting for a task."""

_ENDPOINTS = ("PROXMOX_VE_ENDPOINT", "PROXMOX_URL", "PROXMOX_HOST")
# Of Terraform's provider bpg/proxmox, of Ansible's community.proxmox, of proxmoxer's tools.
_PASSWORDS = (
    ("PROXMOX_VE_USERNAME", "PROXMOX_VE_PASSWORD"),
    ("PROXMOX_USER", "PROXMOX_PASSWORD"),
    ("PVE_USER", "PVE_PASSWORD"),
)
_TOKENS = (
    ("PROXMOX_USER", "PROXMOX_TOKEN_ID", "PROXMOX_TOKEN_SECRET"),
    ("PVE_USER", "PVE_TOKEN_NAME", "PVE_TOKEN_VALUE"),
)


@dataclass(frozen=True)
class Credentials:
    """Who we are; a token has a name beside its user's."""

    user: str
    secret: Secret
    token: str | None = None


def find_credentials(environ: Mapping[str, str]) -> Credentials:
    """Take the first that the environment has, tokens before passwords; raises ConfigError."""
    whole = environ.get("PROXMOX_VE_API_TOKEN")
    if whole:
        name, _, secret = whole.partition("=")
        user, _, token = name.partition("!")
        if not (user and token and secret):
            raise ConfigError(
                "PROXMOX_VE_API_TOKEN isn't written USER@REALM!NAME=SECRET",
                hint="`pveum user token add USER@REALM NAME` shows both parts once",
            )
        return Credentials(user, Secret(secret), token)
    for user, token, secret in _TOKENS:
        if all(environ.get(name) for name in (user, token, secret)):
            # Ansible's token has its user in front in some places, and in others it hasn't.
            name = environ[token].rpartition("!")[2]
            return Credentials(environ[user], Secret(environ[secret]), name)
    for user, secret in _PASSWORDS:
        if environ.get(user) and environ.get(secret):
            return Credentials(environ[user], Secret(environ[secret]))
    raise ConfigError(
        "there are no credentials for Proxmox in the environment",
        hint="set PROXMOX_VE_API_TOKEN to USER@REALM!NAME=SECRET, as for its Terraform provider",
    )


def find_endpoint(configured: str | None, environ: Mapping[str, str]) -> str:
    """Give host and port of the API, from the target's file or the environment."""
    found = configured or next((environ[name] for name in _ENDPOINTS if environ.get(name)), None)
    if not found:
        raise ConfigError(
            "it isn't said where Proxmox' API is",
            hint="`endpoint: https://HOST:8006` in the target's file, or PROXMOX_VE_ENDPOINT",
        )
    parts = urlsplit(found if "//" in found else f"https://{found}")
    if parts.scheme != "https" or not parts.hostname:
        raise ConfigError(f"{found!r} is no https address", hint="write it https://HOST:8006")
    return parts.netloc


class Api:
    """Requests with our own errors; one per platform, safe for threads."""

    def __init__(self, host: str, who: Credentials, ca_file: Path | None) -> None:
        from proxmoxer import ProxmoxAPI

        secret = who.secret.reveal_text()
        token = {"token_name": who.token, "token_value": secret}
        with proxmox_errors(f"log in to {host} as {who.user}"):
            self._root = ProxmoxAPI(
                host,
                user=who.user,
                verify_ssl=str(ca_file) if ca_file else True,
                timeout=_TIMEOUT_S,
                **(token if who.token else {"password": secret}),
            )

    def get(self, doing: str, path: str, **parameters: Any) -> Any:
        """Ask for something; `path` as the API viewer writes it, filled in."""
        with proxmox_errors(doing):
            return self._root(path).get(**parameters)

    def post(self, doing: str, path: str, parameters: Mapping[str, Any]) -> Any:
        """Make something; gives the task that does it."""
        with proxmox_errors(doing):
            return self._root(path).post(**parameters)

    def put(self, doing: str, path: str, parameters: Mapping[str, Any]) -> Any:
        """Change something."""
        with proxmox_errors(doing):
            return self._root(path).put(**parameters)

    def delete(self, doing: str, path: str, **parameters: Any) -> Any:
        """Remove something."""
        with proxmox_errors(doing):
            return self._root(path).delete(**parameters)

    def wait(self, doing: str, task: Any) -> None:
        """Return when a task is done; raises with what it says of its end."""
        if not isinstance(task, str) or not task.startswith("UPID:"):
            return  # done already
        path = f"nodes/{task.split(':')[1]}/tasks/{task}"
        status = self._end_of(doing, f"{path}/status")
        if status == "OK" or status.startswith("WARNINGS"):
            return
        if may_pass(status):
            raise TransientError(f"{doing}: {status}")
        raise KubekilnError(
            f"{doing}: {status}",
            where=task,
            hint=hint_of(status) or self._last_lines(doing, f"{path}/log"),
        )

    def _end_of(self, doing: str, path: str) -> str:
        unanswered = 0
        for wait_s in _waits(_TASK_WITHIN_S):
            try:
                status = self.get(doing, path)
            except TransientError:
                unanswered += 1
                if unanswered == _UNANSWERED:
                    raise
                time.sleep(max(wait_s, _UNANSWERED_WAIT_S))
                continue
            unanswered = 0
            if status.get("status") == "stopped":
                return str(status.get("exitstatus", "it ended without saying how"))
            time.sleep(wait_s)
        raise TransientError(f"{doing}: not done after {_TASK_WITHIN_S:g} s")

    def _last_lines(self, doing: str, path: str) -> str:
        lines = [str(line.get("t", "")) for line in self.get(doing, path, limit=500)]
        return "its log ends with: " + " | ".join(line for line in lines[-3:] if line)


def _waits(within_s: float) -> Iterator[float]:
    waited, wait_s = 0.0, _FIRST_WAIT_S
    while waited < within_s:
        yield wait_s
        waited += wait_s
        wait_s = min(_LONGEST_WAIT_S, wait_s * 1.5)


class Upload(io.FileIO):
    """A file on its way, under the name that it is to have; tells how much of it was read."""

    def __init__(self, path: Path, name: str, advance: Advance | None = None) -> None:
        super().__init__(path)
        self.name = name
        self._advance: Callable[[int], None] = advance or (lambda _n: None)

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        self._advance(len(data))
        return data
