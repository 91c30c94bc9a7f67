# SPDX-License-Identifier: Apache-2.0
"""What is a pool's bootstrap token, and how does the cluster come to know it?

https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudinit.nodepool import NodePool
from cloudinit.pki import BACKDATE
from kubekiln.secret import Secret

_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH, _SECRET_LENGTH = 6, 16


@dataclass(frozen=True)
class BootstrapToken:
    """A token with which machines ask for a certificate, until it ends."""

    token_id: str
    secret: Secret
    """Only the second half; the first one is its public name."""
    issued: datetime
    expires: datetime

    @property
    def whole(self) -> Secret:
        """What is sent to the API."""
        return Secret(f"{self.token_id}.{self.secret.reveal_text()}")

    def fits(self, *, hours: int, now: datetime) -> bool:
        """Tell whether it has the life that is wanted, is in its first two thirds, and not ahead.

        One that was made while the host's clock was ahead would outlive its time. A certificate
        begins early, by as much as is let pass here.
        """
        life = self.expires - self.issued
        is_timely = self.issued - BACKDATE <= now <= self.expires - life / 3
        return is_timely and life == timedelta(hours=hours)


def make_token(*, hours: int, now: datetime) -> BootstrapToken:
    """Make a token that begins now."""
    token_id = _random(_ID_LENGTH)
    issued = now.replace(microsecond=0)
    expires = issued + timedelta(hours=hours)
    return BootstrapToken(token_id, Secret(_random(_SECRET_LENGTH)), issued, expires)


def token_object(pool: NodePool, token: BootstrapToken) -> dict[str, Any]:
    """Describe the Secret by which the API server knows a token."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"bootstrap-token-{token.token_id}", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "description": f"machines of pool {pool.name} (kubekiln)",
            "token-id": token.token_id,
            "token-secret": token.secret.reveal_text(),
            "expiration": stamp(token.expires),
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": pool.group,
        },
    }


def stamp(moment: datetime) -> str:
    """Write a time as Kubernetes reads it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
