# SPDX-License-Identifier: Apache-2.0
"""How does work that needs root only now and then keep the permission that it began with?"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kubekiln.process import Command, run

# sudoers(5): a ticket is good for 15 minutes by default, on some hosts for 5.
_RENEW_EVERY_S = 120.0


@contextmanager
def ticket_kept(*, every_s: float = _RENEW_EVERY_S) -> Iterator[None]:
    """Renew sudo's ticket while the block runs: between two uses it may take half an hour."""
    if os.geteuid() == 0:
        yield
        return
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(done, every_s), name="sudo", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()


def _renew(done: threading.Event, every_s: float) -> None:
    while not done.wait(every_s):
        run(Command(["sudo", "-n", "-v"]), check=False)
