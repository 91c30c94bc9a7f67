# SPDX-License-Identifier: Apache-2.0
"""What is a rule over a cluster's configuration, and what does it find?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cloudinit.model import Cluster
from kubekiln.config import KeyPath


@dataclass(frozen=True)
class Finding:
    """What is wrong, at which key, and what to do."""

    at: KeyPath
    what: str
    hint: str | None = None


Rule = Callable[[Cluster], Iterator[Finding]]
"""A function that gives its findings. All rules run, so all findings come at once."""
