# SPDX-License-Identifier: Apache-2.0
"""What is a top-level verb of the command line?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verb:
    """A typer command function and where it stands in `kubekiln --help`."""

    name: str
    function: Callable[..., None]
    panel: str = "Run a cluster"
    context_settings: Mapping[str, Any] = field(default_factory=dict)
