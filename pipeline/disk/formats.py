# SPDX-License-Identifier: Apache-2.0
"""How does a baked disk become a file in the format that a platform takes?

Each is written from the published qcow2, beside it, and read back before it gets its name.
"""

from __future__ import annotations

import json
from pathlib import Path

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import DiskImage, FormatName


def as_format(manifest: Path, wanted: FormatName) -> DiskImage:
    """Give a published image in a format; what was written once, and is still whole, is reused."""
    about = json.loads(manifest.read_text())
    if wanted != "qcow2":
        raise KubekilnError(f"format {wanted} isn't written yet")
    disk = about["qcow2"]
    return DiskImage(
        name=about["name"],
        digest=about["digest"],
        path=manifest.parent / disk["path"],
        format=wanted,
        sha256=disk["sha256"],
        virtual_size=disk["virtual_size"],
        architecture=about["architecture"],
    )
