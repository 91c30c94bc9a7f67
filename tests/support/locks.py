# SPDX-License-Identifier: Apache-2.0
"""How does a test make a lock, a store, and programs small enough to read?"""

from __future__ import annotations

import functools
import hashlib
import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.lock import Lock, load_lock
from pipeline.sources.provider import Context
from pipeline.store import Store

LOCK_FILE = Path(__file__).resolve().parents[2] / "configs" / "components.lock.yaml"
_MACHINES = {"amd64": 62, "arm64": 183}


def program(architecture: str = "amd64", *, text: bytes = b"a program") -> bytes:
    """Make the start of an ELF program for an architecture."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack("<HH", 2, _MACHINES[architecture]) + bytes(44) + text


def archive(files: Mapping[str, bytes]) -> bytes:
    """Make a .tar.gz."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def artefact(url: str, content: bytes, files: Mapping[str, str]) -> dict[str, Any]:
    """Make the lock's entry of an artefact."""
    return {
        "url": url,
        "sha256": sha256(content),
        "files": dict(files),
        "proof": {"kind": "none"},
    }


def lock_of(components: Mapping[str, Mapping[str, Any]]) -> Lock:
    """Make a lock with the real toolchains and these components."""
    return Lock.model_validate(
        {"format": 1, "toolchains": real_lock().toolchains, "components": components}
    )


@functools.cache
def real_lock() -> Lock:
    """Read the lock that is committed."""
    return load_lock(LOCK_FILE)


def context_of(tmp_path: Path, lock: Lock | None = None, **more: Any) -> Context:
    """Make the context of a run whose store is under `tmp_path`."""
    return Context(lock or lock_of({}), Store(tmp_path / "store"), **more)
