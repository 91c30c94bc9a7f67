# SPDX-License-Identifier: Apache-2.0
"""What differs in two VHDs of one disk? (The footer's time and its random id: set here.)

Equal disks are to give equal files: by their checksum a platform's image is found again.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

from kubekiln.errors import IntegrityError

_FOOTER_BYTES = 512
# Places in the footer, from Microsoft's "Virtual Hard Disk Image Format Specification" of 2006.
_COOKIE, _TIME, _CHECKSUM, _ID = slice(0, 8), slice(24, 28), slice(64, 68), slice(68, 84)


def settle_footer(vhd: Path, name: str) -> None:
    """Give a VHD the time 0 (of its own: 2000-01-01), and an id made of a name."""
    with vhd.open("r+b") as file:
        file.seek(-_FOOTER_BYTES, os.SEEK_END)
        footer = bytearray(file.read())
        if footer[_COOKIE] != b"conectix":
            raise IntegrityError(f"{vhd.name} has no footer of a VHD")
        footer[_TIME] = bytes(4)
        footer[_ID] = hashlib.sha256(name.encode()).digest()[:16]
        footer[_CHECKSUM] = bytes(4)
        footer[_CHECKSUM] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
        file.seek(-_FOOTER_BYTES, os.SEEK_END)
        file.write(footer)
