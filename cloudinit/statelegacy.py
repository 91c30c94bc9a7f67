# SPDX-License-Identifier: Apache-2.0
"""How is a state read that was written as a directory of files (format 1)?

`authorities/*.pem`, `keys/*`, `leaves/<node>/<use>.<digest>.pem` and, last, `version`. The next
commit writes it as one file and removes these. Drop this in the first version after 1.0.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from cloudinit import pki
from cloudinit.pki import KeyPair
from cloudinit.statefile import BACKUP_HINT, Document, Leaf, StateError
from kubekiln.secret import Secret

_MARKER = "version"
_FORMAT = "kubekiln-state 1\n"
_PARTS = ("authorities", "keys", "leaves")
_KEYS = {"service-account": "service-account.pem", "encryption": "encryption.key"}
_CERTIFICATE_START = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True)
class LegacyState:
    """What the files held; without the marker a first rendering was interrupted."""

    document: Document
    is_complete: bool


def read_legacy(directory: Path, *, cluster: str) -> LegacyState | None:
    """Read such a directory, or give None if there is none; raises StateError if it is damaged."""
    marker = directory / _MARKER
    if marker.exists() and marker.read_text() != _FORMAT:
        raise StateError(
            f"state format {marker.read_text().strip()!r} is not {_FORMAT.strip()!r}",
            where=str(marker),
            hint="use the kubekiln that wrote it",
        )
    if not marker.exists() and not any((directory / part).exists() for part in _PARTS):
        return None
    document = Document(cluster)
    for path in sorted((directory / "authorities").glob("*.pem")):
        document.authorities[path.stem] = _split(path)
    for name, file in _KEYS.items():
        path = directory / "keys" / file
        if path.exists():
            document.keys[name] = Secret(path.read_bytes().strip() + b"\n")
    leaves = directory / "leaves"
    for path in sorted(leaves.glob("*/*.*.pem")):
        use, digest, _ = path.name.rsplit(".", 2)
        document.leaves[f"{path.parent.name}/{use}"] = Leaf(digest, _split(path))
    return LegacyState(document, marker.exists())


def remove_legacy(directory: Path) -> None:
    """Remove the files once their content is elsewhere; the marker goes last."""
    for part in _PARTS:
        if (directory / part).exists():
            shutil.rmtree(directory / part)
    (directory / _MARKER).unlink(missing_ok=True)


def _split(path: Path) -> KeyPair:
    stored = path.read_bytes()
    cut = stored.find(_CERTIFICATE_START)
    pair = KeyPair(Secret(stored[:cut]), stored[cut:])
    try:
        fits = cut > 0 and pki.belong_together(pair)
    except ValueError:
        fits = False
    if not fits:
        raise StateError(
            f"{path.name} does not hold a key and its certificate",
            where=str(path),
            hint=BACKUP_HINT,
        )
    return pair
