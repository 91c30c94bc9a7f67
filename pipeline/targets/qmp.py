# SPDX-License-Identifier: Apache-2.0
"""How is a running QEMU asked and told things (QMP, over its unix socket)?"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from qemu.qmp import QMPClient, QMPError

from kubekiln.errors import KubekilnError
from kubekiln.files import make_dir

_ANSWER_S = 10.0


def socket_path(directory: Path, kind: str = "qmp") -> Path:
    """Give a socket for what runs in `directory`: in a directory of ours alone, and short.

    A unix socket's path has at most 107 bytes (unix(7)); a project's may be longer. Not below
    /run/user, which goes with the user's last session (pam_systemd(8)): the machines stay.
    """
    user = os.getuid()
    private = make_dir(Path(tempfile.gettempdir()) / f"kubekiln-{user}", mode=0o700)
    if private.stat().st_uid != user or private.is_symlink():
        raise KubekilnError(
            f"{private} belongs to somebody else", hint=f"remove it: rm -r {private}"
        )
    return private / f"{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}.{kind}"


def execute(socket: Path, command: str, arguments: dict[str, str] | None = None) -> object:
    """Execute one QMP command; raises KubekilnError if QEMU doesn't answer or refuses."""
    try:
        return asyncio.run(asyncio.wait_for(_execute(socket, command, arguments), _ANSWER_S))
    except (QMPError, EOFError, OSError, TimeoutError) as error:
        what = f"QEMU did not do {command!r}: {error or type(error).__name__}"
        raise KubekilnError(what, where=str(socket)) from error


def ask_monitor(socket: Path, line: str) -> str:
    """Give a line to QEMU's other monitor, for what QMP has no command; gives what it says.

    It says nothing if all went well.
    """
    return str(execute(socket, "human-monitor-command", {"command-line": line})).strip()


async def _execute(socket: Path, command: str, arguments: dict[str, str] | None) -> object:
    client = QMPClient("kubekiln")
    await client.connect(str(socket))
    try:
        return await client.execute(command, arguments)
    finally:
        # A QEMU that was told to quit is gone before it can say goodbye.
        with contextlib.suppress(EOFError, OSError):
            await client.disconnect()
