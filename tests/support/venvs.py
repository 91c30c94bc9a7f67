# SPDX-License-Identifier: Apache-2.0
"""Test servers that come from PyPI, each in an environment of its own: their pins aren't ours."""

from __future__ import annotations

import sys
from pathlib import Path

from kubekiln.files import locked, make_dir, sha256_bytes, write_atomic
from kubekiln.paths import cache_dir
from kubekiln.process import Command, run

PINS_DIR = Path(__file__).resolve().parents[1] / "platforms" / "servers"


def server_venv(name: str) -> Path:
    """Give the `bin` directory of an environment with what `servers/<name>.txt` pins.

    Kept in the user's cache, by the digest of the pins; made once.
    """
    pins = PINS_DIR / f"{name}.txt"
    digest = sha256_bytes(pins.read_bytes() + sys.version.encode())[:16]
    base = make_dir(cache_dir() / "test-servers")
    venv = base / f"{name}-{digest}"
    with locked(base / f"{name}-{digest}.lock"):
        done = venv / "made"
        if not done.is_file():
            run(Command([sys.executable, "-m", "venv", "--clear", venv]))
            python = str(venv / "bin" / "python")
            words = ["-m", "pip", "-q", "install", "--require-hashes", "--no-deps", "-r", str(pins)]
            run(Command([python, *words], timeout_s=900))
            write_atomic(done, "")
    return venv / "bin"
