# SPDX-License-Identifier: Apache-2.0
"""Which targets are there, by name?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from kubekiln.errors import ConfigError
from pipeline.targets.nspawn import NspawnTarget
from pipeline.targets.protocol import Target
from pipeline.targets.qemu import QemuTarget

TARGETS: Mapping[str, Callable[[], Target]] = MappingProxyType(
    {"qemu": QemuTarget, "nspawn": NspawnTarget}
)


def find_target(name: str) -> Target:
    """Give the target of this name; raises ConfigError naming those there are."""
    if name not in TARGETS:
        raise ConfigError(f"no target named {name!r}", hint=f"there are: {', '.join(TARGETS)}")
    return TARGETS[name]()
