# SPDX-License-Identifier: Apache-2.0
"""Is it already, and still, the time at which this node's certificates are valid?

A machine without a clock that keeps going, or with one that is wrong, comes up in the past; with
certificates that aren't valid yet it would wait for a time server that it may not reach.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from kubekiln_node.console import CONTAINER_MARK

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubekiln_node.manifest import Manifest
    from kubekiln_node.protected import Note


class Clock:
    """The machine's clock; a container's is its host's, which nobody here sets."""

    def now(self) -> int:
        """Read seconds since 1970."""
        return int(time.time())

    def may_set(self) -> bool:
        """Ask whether this clock is the machine's own."""
        return not os.path.exists(CONTAINER_MARK)

    def set(self, seconds: int) -> None:
        """Set it; raises OSError where that is refused."""
        time.clock_settime(time.CLOCK_REALTIME, seconds)


def check_clock(manifest: Manifest | Note, *, clock: Clock, tell: Callable[[str], None]) -> None:
    """Put a clock that is behind forward to where the certificates begin; say what is wrong.

    They were made before this machine booted: it can't be earlier than that. A time server may
    correct it later. No reason to keep the gate closed: every component tries for ever.
    """
    now = clock.now()
    if manifest.valid_until and now > manifest.valid_until:
        tell(f"KUBEKILN certificates=expired until={stamp(manifest.valid_until)} now={stamp(now)}")
    if now >= manifest.valid_from:
        return
    span = f"from={stamp(now)} to={stamp(manifest.valid_from)}"
    if not clock.may_set():
        tell(f"KUBEKILN clock=behind {span}")
        return
    try:
        clock.set(manifest.valid_from)
    except OSError as error:
        tell(f"KUBEKILN clock=behind {span} error={error.strerror!r}")
        return
    tell(f"KUBEKILN clock=advanced {span}")


def stamp(seconds: int) -> str:
    """Write a time as people and programs read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
