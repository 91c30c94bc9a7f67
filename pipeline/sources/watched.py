# SPDX-License-Identifier: Apache-2.0
"""How is a long process run from a thread, so that it ends when the whole work is given up?

An interrupt reaches the main thread only, and children are in sessions of their own: a thread that
just waited for its child would keep the user waiting after Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace

from kubekiln.errors import CommandFailed
from kubekiln.process import Command, describe_exit, end, spawn
from pipeline.sources.provider import Cancelled

_POLL_S = 0.25
_GRACE_S = 5.0
_TAIL_LINES = 20


def run_watched(
    command: Command, *, cancel: threading.Event, tick: Callable[[], None] = lambda: None
) -> None:
    """Run a command that has a log; stop it when `cancel` is set.

    `tick` is called a few times a second. Raises Cancelled, or CommandFailed with the log's end.
    """
    if command.log is None:
        raise ValueError("a watched command needs a log")
    # A build of half an hour is for nobody if we are killed (prctl(2)): our thread waits for it.
    bound = ["setpriv", "--pdeathsig", "KILL", *command.argv]
    child = spawn(replace(command, argv=bound))
    try:
        while child.poll() is None:
            if cancel.wait(_POLL_S):
                raise Cancelled("stopped, since something else failed or you asked for it")
            tick()
    except BaseException:
        end(child.pid, group=True)
        clock = threading.Event()
        for _ in range(int(_GRACE_S / _POLL_S)):
            if child.poll() is not None:
                break
            clock.wait(_POLL_S)
        end(child.pid, group=True, how=signal.SIGKILL)
        child.wait()
        raise
    if child.returncode != 0:
        lines = command.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        tail = "".join(f"\n  | {line}" for line in lines)
        raise CommandFailed(
            f"{describe_exit(child.returncode)}:\n  $ {command}{tail}", where=f"log {command.log}"
        )
