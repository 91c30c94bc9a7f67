# SPDX-License-Identifier: Apache-2.0
"""Did the holder of one of these keys sign this file? (Asked of gpgv, which apt needs anyway.)"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from kubekiln.errors import IntegrityError
from kubekiln.process import Command, run

_ARMOR = re.compile(rb"-----BEGIN PGP [^-]+-----\r?\n(.*?)-----END PGP [^-]+-----", re.DOTALL)


def dearmor(data: bytes) -> bytes:
    """Decode every ASCII-armored block; data that isn't armored is given back as it is."""
    blocks = _ARMOR.findall(data)
    if not blocks:
        return data
    return b"".join(_decode(block) for block in blocks)


def _decode(block: bytes) -> bytes:
    lines = block.replace(b"\r\n", b"\n").split(b"\n")
    if b"" in lines:  # an empty line ends the armor's headers
        lines = lines[lines.index(b"") + 1 :]
    body = [line for line in lines if line and not line.startswith(b"=")]
    return base64.b64decode(b"".join(body))


def check_detached(signature: Path, signed: Path, keyring: Path) -> str:
    """Verify a detached signature; give the fingerprint of the key. Raises IntegrityError."""
    return _gpgv([signature, signed], keyring, what=signed.name)


def check_inline(signed: Path, content: Path, keyring: Path) -> str:
    """Verify a clear-signed file and write what was signed to `content`."""
    return _gpgv(["--output", content, signed], keyring, what=signed.name)


def _gpgv(arguments: list[str | Path], keyring: Path, *, what: str) -> str:
    command = Command(
        ["gpgv", "--status-fd", "1", "--keyring", keyring.resolve(), *arguments],
        what_for="to check a signature",
    )
    result = run(command, check=False)
    # VALIDSIG is said once per good signature; gpgv fails if any is bad or its key is not there,
    # and Debian's index has several: one good one is enough, a bad one is not.
    said = result.stdout.decode(errors="replace")
    good = re.search(r"^\[GNUPG:\] VALIDSIG (\S+)", said, re.MULTILINE)
    if good is None or "[GNUPG:] BADSIG" in said:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no answer"]
        raise IntegrityError(f"no good signature on {what}: {last[0]}")
    return good.group(1)
