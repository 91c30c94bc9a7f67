# SPDX-License-Identifier: Apache-2.0
"""What does /run/kubekiln/status.json say, and how is it replaced without a torn read?"""

from __future__ import annotations

import json
import os
from typing import Any

STATUS_PATH = "/run/kubekiln/status.json"


def read_status(path: str = STATUS_PATH) -> dict[str, Any]:
    """Read the status; an empty one where there is none yet."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_status(status: dict[str, Any], path: str = STATUS_PATH) -> None:
    """Replace the status as a whole; readable by everyone, it holds no secret."""
    write_atomic(path, json.dumps(status, sort_keys=True) + "\n", mode=0o644)


def write_atomic(path: str, content: str | bytes, *, mode: int) -> None:
    """Write beside and rename: a reader sees the old or the new file, never half of one."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    beside = f"{path}.{os.getpid()}.tmp"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as stream:
        os.fchmod(fd, mode)  # whatever the umask was
        stream.write(content.encode() if isinstance(content, str) else content)
    os.replace(beside, path)
