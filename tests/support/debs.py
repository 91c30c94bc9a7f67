# SPDX-License-Identifier: Apache-2.0
"""What do tests take from the distribution's packages, without installing them on this host?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from kubekiln.process import find_tool


def unpack(packages: Iterable[str], into: Path) -> Path:
    """Download packages and extract them; gives the directory that stands for `/`.

    Skips where there is no apt.
    """
    if find_tool("apt-get") is None:
        pytest.skip("this host has no apt to get packages with")
    # apt downloads as a user of its own.
    into.chmod(0o755)
    call("apt-get", "download", *packages, cwd=into)
    for package in sorted(into.glob("*.deb")):
        call("dpkg-deb", "--extract", str(package), str(into / "unpacked"))
    return into / "unpacked"


def call(*argv: str, cwd: Path | None = None) -> str:
    """Run a program that must succeed; gives all that it said."""
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr
