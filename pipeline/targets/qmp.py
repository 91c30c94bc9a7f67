# SPDX-License-Identifier: Apache-2.0
"""How is a running QEMU asked and told things (QMP, over its unix socket)?"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from kubekiln.errors import KubekilnError
from kubekiln.files import make_dir

_ANSWER_S = 10.0


def socket_path(run_dir: Path) -> Path:
    """Give a machine's socket: in a directory of ours alone, and short.

    A unix socket's path has at most 107 bytes (unix(7)); a project's may be longer.
    """
    user = os.getuid()
    runtime = Path(f"/run/user/{user}")
    base = runtime if os.access(runtime, os.W_OK) else Path(tempfile.gettempdir())
    directory = make_dir(base / f"kubekiln-{user}", mode=0o700)
    if directory.stat().st_uid != user or directory.is_symlink():
        raise KubekilnError(
            f"{directory} belongs to somebody else", hint=f"remove it: rm -r {directory}"
        )
    return directory / f"{hashlib.sha256(str(run_dir).encode()).hexdigest()[:16]}.qmp"


def execute(socket: Path, command: str) -> dict[str, Any]:
    """Execute one QMP command; raises KubekilnError if QEMU doesn't answer or refuses."""
    try:
        answer = asyncio.run(asyncio.wait_for(_execute(socket, command), _ANSWER_S))
    except (QMPError, EOFError, OSError, TimeoutError) as error:
        what = f"QEMU did not do {command!r}: {error or type(error).__name__}"
        raise KubekilnError(what, where=str(socket)) from error
    return answer if isinstance(answer, dict) else {}


async def _execute(socket: Path, command: str) -> object:
    client = QMPClient("kubekiln")
    await client.connect(str(socket))
    try:
        return await client.execute(command)
    finally:
        # A QEMU that was told to quit is gone before it can say goodbye.
        with contextlib.suppress(EOFError, OSError):
            await client.disconnect()
