# SPDX-License-Identifier: Apache-2.0
"""What may a cluster's configuration say about who of several masters' controllers works?"""

from __future__ import annotations

from pydantic import Field, model_validator

from kubekiln.config import Model, invalid

# client-go waits that much longer at random, and refuses to begin if that isn't less than renew_s
# (JitterFactor of its package leaderelection).
_JITTER = 1.2


class LeaderElection(Model):
    """How the masters' controller managers, and their schedulers, agree on the one that works."""

    lease_s: int = Field(default=15, ge=2, le=3600)
    """How long in s the others leave the one that works alone after its last sign of life: that is
    how long nobody works when its machine is lost."""
    renew_s: int = Field(default=10, ge=2, le=3600)
    """How long in s the one that works tries to give a sign of life; then it ends, and starts anew
    as one of the others."""
    retry_s: int = Field(default=2, ge=1, le=600)
    """Pause in s between two tries."""

    @model_validator(mode="after")
    def _can_be_kept(self) -> LeaderElection:
        if self.lease_s <= self.renew_s:
            raise invalid(
                f"lease_s {self.lease_s} is not more than renew_s {self.renew_s}: another would "
                "begin while the first still works",
                hint="give about half as much again, as 15 to 10",
                at=("lease_s",),
            )
        if self.renew_s <= self.retry_s * _JITTER:
            raise invalid(
                f"renew_s {self.renew_s} is not more than {_JITTER} times retry_s {self.retry_s}: "
                "there would be no second try",
                hint="give several times retry_s, as 10 to 2",
                at=("renew_s",),
            )
        return self
