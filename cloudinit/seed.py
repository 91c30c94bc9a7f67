# SPDX-License-Identifier: Apache-2.0
"""How do the three NoCloud files, or a machine's key, become a CD-ROM image?"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pycdlib
import pycdlib.dates
import pycdlib.headervd
import pycdlib.pycdlib

# cloud-init finds its NoCloud source by this volume label.
_LABEL = "cidata"
# 2000-01-01: pycdlib writes the time of day into the image, which would make each one different.
_INSTANT = 946_684_800.0


def build_iso(files: Mapping[str, bytes], *, label: str = _LABEL) -> bytes:
    """Make an ISO 9660 image with Joliet and Rock Ridge names; the same files, the same bytes."""
    with _fixed_clock():
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=label)
        for number, (name, content) in enumerate(sorted(files.items())):
            iso.add_fp(
                io.BytesIO(content),
                len(content),
                f"/FILE{number}.;1",
                rr_name=name,
                joliet_path=f"/{name}",
                file_mode=0o100400,
            )
        out = io.BytesIO()
        iso.write_fp(out)
        iso.close()
    return out.getvalue()


@contextlib.contextmanager
def _fixed_clock() -> Iterator[None]:
    """Let pycdlib see one instant: it has no parameter for it."""
    fixed = {"time": lambda: _INSTANT, "localtime": time.gmtime}
    clock = SimpleNamespace(**{**vars(time), **fixed})
    modules = (pycdlib.pycdlib, pycdlib.headervd, pycdlib.dates, pycdlib.utils)
    for module in modules:
        vars(module)["time"] = clock
    try:
        yield
    finally:
        for module in modules:
            vars(module)["time"] = time
