# SPDX-License-Identifier: Apache-2.0
"""How is the lock written so that a change shows as a small diff?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kubekiln.files import write_atomic
from pipeline.lock import Lock

_HEAD = """\
# yaml-language-server: $schema=schema/components-lock.schema.json
# Written by `kubekiln lock update` from components.yaml: change that, not this.
"""


def render_lock(lock: Lock) -> str:
    """Render the lock as YAML; same lock, same text."""
    data: dict[str, Any] = lock.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    text = yaml.safe_dump({"format": lock.format, **data}, sort_keys=False, width=100)
    return _HEAD + text


def write_lock(lock: Lock, path: Path) -> bool:
    """Write the lock; give False if it says the same already."""
    text = render_lock(lock)
    if path.is_file() and path.read_text() == text:
        return False
    write_atomic(path, text)
    return True
