# SPDX-License-Identifier: Apache-2.0
"""Which platforms are there, and how does a file of `configs/targets` become one?

A platform's module is imported only when it is asked for: their clients are large.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from kubekiln.config import Source, load_model
from kubekiln.errors import ConfigError
from kubekiln.paths import Project
from pipeline.targets.platform import Platform, TargetSettings

PLATFORMS: Mapping[str, str] = MappingProxyType(
    {
        "aws": "pipeline.targets.aws",
        "azure": "pipeline.targets.azure",
        "file": "pipeline.targets.file",
        "kubevirt": "pipeline.targets.kubevirt",
        "libvirt": "pipeline.targets.libvirt",
        "openstack": "pipeline.targets.openstack",
        "proxmox": "pipeline.targets.proxmox",
        "vsphere": "pipeline.targets.vsphere",
    }
)
"""`type:` of a target → its module, which has `Settings` and `connect(settings)`."""


def settings_model(kind: str) -> type[TargetSettings]:
    """Give the model of a platform's files; raises KeyError if there is no such platform."""
    return cast("type[TargetSettings]", importlib.import_module(PLATFORMS[kind]).Settings)


def load_settings(name: str, project: Project) -> TargetSettings:
    """Read `configs/targets/NAME.yaml`, or a file; raises ConfigError with all its problems."""
    path = project.config_path("targets", name)
    source = Source(path)
    kind = source.data.get("type") if isinstance(source.data, dict) else None
    if not isinstance(kind, str) or kind not in PLATFORMS:
        raise ConfigError(
            f"no type of target {kind!r}" if kind else "required key 'type' is missing",
            where=source.where(("type",)),
            hint=f"there are: {', '.join(sorted(PLATFORMS))}",
        )
    return load_model(settings_model(kind), path).below(project.root)


def connect(settings: TargetSettings) -> Platform:
    """Make the platform of these settings; it isn't asked for anything yet."""
    module = importlib.import_module(PLATFORMS[settings.type])
    return cast("Platform", module.connect(settings))
