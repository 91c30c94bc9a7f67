# SPDX-License-Identifier: Apache-2.0
"""What differs from one Kubernetes version to another, asked by name instead of compared in place.

Each question names its source; a version outside the supported range is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubekiln.errors import ConfigError

OLDEST_MINOR = 35
NEWEST_MINOR = 37


@dataclass(frozen=True)
class KubernetesContract:
    """The behaviour of one Kubernetes release."""

    minor: int
    patch: int

    @classmethod
    def of(cls, version: str) -> KubernetesContract:
        """Read `1.37.1`; raises ConfigError for anything that isn't a supported release."""
        match = re.fullmatch(r"1\.(\d+)\.(\d+)", version)
        if not match:
            raise ConfigError(f"kubernetes version {version!r} is not of the form 1.37.1")
        minor = int(match[1])
        if not OLDEST_MINOR <= minor <= NEWEST_MINOR:
            raise ConfigError(
                f"kubernetes {version} is not supported",
                hint=f"kubekiln knows 1.{OLDEST_MINOR} to 1.{NEWEST_MINOR}",
            )
        return cls(minor, int(match[2]))

    def requires_cri_runtime_config(self) -> bool:
        """1.38 drops the kubelet's own cgroupDriver fallback (KEP-4033, kubernetes#139121)."""
        return self.minor >= 38

    def refuses_cgroup_v1(self) -> bool:
        """Since 1.35 the kubelet fails on cgroup v1 unless failCgroupV1 is false (KEP-5573)."""
        return self.minor >= 35

    def has_kubeadm_v1beta3(self) -> bool:
        """kubeadm.k8s.io/v1beta3 was removed in 1.37."""
        return self.minor < 37
