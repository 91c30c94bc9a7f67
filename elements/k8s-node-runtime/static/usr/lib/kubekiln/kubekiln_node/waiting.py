# SPDX-License-Identifier: Apache-2.0
"""How does a machine wait for what others have to do, and say so without filling the console?"""

from __future__ import annotations

import os
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
# What is asked rarely: soon enough for whoever looks at the console, and never in step with others.
FIRST_ASKED_S = 4.0
RARELY_S = 30.0
JITTER = 0.25
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


class Rarely:
    """Asks what is dear to answer ever more rarely, and repeats the last answer in between.

    The machines of a pool may wait by the hundred, and each question is for all their requests.
    """

    def __init__(
        self,
        ask: Callable[[], str],
        *,
        until_then: str,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = lambda: os.urandom(1)[0] / 255,
    ) -> None:
        self._ask = ask
        self._answer = until_then
        self._clock = clock
        self._random = random
        self._pause_s = FIRST_ASKED_S
        self._ask_at = self._next()

    def __call__(self) -> str:
        """Give the last answer, a new one if it is time."""
        if self._clock() >= self._ask_at:
            self._answer = self._ask()
            self._pause_s = min(self._pause_s * GROWTH, RARELY_S)
            self._ask_at = self._next()
        return self._answer

    def _next(self) -> float:
        return self._clock() + self._pause_s * (1 - JITTER + 2 * JITTER * self._random())
