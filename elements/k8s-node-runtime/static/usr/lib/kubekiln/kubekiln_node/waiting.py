# SPDX-License-Identifier: Apache-2.0
"""How does a machine wait for what others have to do, and say so without filling the console?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kubekiln_node.console import machine_seconds, say

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S = 2.0
GROWTH = 1.5
# DHCP takes seconds; who waits longer is worth a line, and another one each time that has passed.
FIRST_WORD_S = 20.0
NEXT_WORD_S = 600.0
SAID_AT_ONCE = ("token=refused", "join=refused", "userdata=refused")


class Waiting:
    """Asks again until there is no more trouble, and says what it is, not too often."""

    def __init__(
        self,
        node: str,
        *,
        longest_pause_s: float = PAUSE_S,
        tell: Callable[[str], None] = say,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node = node
        self._longest_pause_s = longest_pause_s
        self._tell = tell
        self._sleep = sleep
        self._clock = clock

    def until(self, trouble: Callable[[], str]) -> None:
        """Return when `trouble` has nothing to say."""
        said, say_at, pause_s = "", self._clock() + FIRST_WORD_S, PAUSE_S
        while found := trouble():
            urgent = found != said and found.partition(" ")[0] in SAID_AT_ONCE
            if urgent or self._clock() >= say_at:
                self._tell(f"KUBEKILN {found} t={machine_seconds():.1f} node={self._node}")
                said, say_at = found, self._clock() + NEXT_WORD_S
            self._sleep(pause_s)
            pause_s = min(pause_s * GROWTH, self._longest_pause_s)
