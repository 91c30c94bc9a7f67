# SPDX-License-Identifier: Apache-2.0
"""What is a provider: somebody who can give a locked release of a component?"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kubekiln.errors import KubekilnError
from pipeline.lock import Architecture, Lock, ProviderName, Release
from pipeline.store import Store


class Unreachable(KubekilnError):
    """A server can't be reached or doesn't have the file; another provider may."""


class Cancelled(KubekilnError):
    """Somebody else failed or the user interrupted; this work was given up."""


@dataclass(frozen=True)
class Context:
    """What all requests of one run share."""

    lock: Lock
    store: Store
    mirror: str | None = None
    """URL or directory that has the layout `<original host>/<original path>`."""
    debian_mirror: str | None = None
    """Root of a Debian mirror; else that of the host's own apt sources."""
    cancel: threading.Event = field(default_factory=threading.Event)
    """Set when the work is to be given up."""
    unreachable: set[str] = field(default_factory=set)
    """Hosts that gave no connection in this run: nobody waits for them twice."""

    def check_cancelled(self) -> None:
        """Raise Cancelled if the work is to be given up."""
        if self.cancel.is_set():
            raise Cancelled("given up, since something else failed")


@dataclass(frozen=True)
class Request:
    """One component that is wanted."""

    component: str
    version: str
    architecture: Architecture
    release: Release
    context: Context

    @property
    def title(self) -> str:
        """Name it for people."""
        return f"{self.component} {self.version} ({self.architecture})"


class Provider(Protocol):
    """One way to get a release."""

    @property
    def name(self) -> ProviderName:
        """The name that image configs use."""
        ...

    def offers(self, request: Request) -> bool:
        """Tell whether the lock has this provider for the request; asks no network."""
        ...

    def key(self, request: Request) -> str:
        """Digest what the result depends on; the store remembers the result under it."""
        ...

    def fetch(self, request: Request, directory: Path) -> Mapping[str, Path]:
        """Get the files, verified, into `directory`: our name → file.

        Raises Unreachable if another provider may be luckier, IntegrityError for wrong bytes.
        """
        ...
