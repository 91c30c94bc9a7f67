# SPDX-License-Identifier: Apache-2.0
"""What may a configuration say of how a cluster's state rests on this host? (`state:`)"""

from __future__ import annotations

from pydantic import model_validator

from cloudinit.modeltypes import Recipient
from kubekiln.config import Model, invalid


class Encryption(Model):
    """How the state (authorities, keys) rests on this host; in the clear if nothing is said."""

    recipients: tuple[Recipient, ...] = ()
    """Public keys of age (`age1…`): whoever has one of their identities can open the state."""
    passphrase: bool = False
    """Whether a passphrase opens it instead, asked for on the terminal; opening takes seconds."""

    decrypt: bool = False
    """Whether a state that is encrypted is to rest in the clear again. Leaving out the other two
    isn't enough: rendering refuses."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Encryption:
        if self.passphrase and self.recipients:
            raise invalid(
                "recipients and passphrase are both given",
                hint="age takes a passphrase alone: leave out one of them",
                at=("passphrase",),
            )
        if self.decrypt and (self.passphrase or self.recipients):
            raise invalid(
                "decrypt is given beside what the state is to be encrypted for",
                hint="leave out one of them",
                at=("decrypt",),
            )
        return self


class StateSettings(Model):
    """The cluster's secrets between two renderings, in state/<cluster>."""

    encryption: Encryption = Encryption()
    """Encryption at rest; a change takes effect at the next rendering."""
