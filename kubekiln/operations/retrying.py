# SPDX-License-Identifier: Apache-2.0
"""What is tried again, how often, and after how long?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from kubekiln.progress import say
from pipeline.targets.platform import TransientError

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How often something is tried that may fail for a moment; ends early when it is told to."""

    attempts: int = 6
    # Full jitter, as the clouds' own SDKs do: many that were refused together don't come back
    # together.
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    ended: threading.Event = field(default_factory=threading.Event)

    def waits(self, times: int) -> Iterator[bool]:
        """Wait so many times, longer each time, for what may appear late."""
        for attempt in range(times):
            seconds = min(self.first_wait_s * 2**attempt, self.longest_wait_s)
            if self.ended.wait(seconds):
                return
            yield True

    def try_to(self, what: str, act: Callable[[bool], T]) -> T:
        """Do something until it succeeds; raises its last TransientError when patience ends.

        `act` is told whether it is tried again: it looks first then for what an attempt without an
        answer has made.
        """
        attempts = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_any(stop_after_attempt(self.attempts), stop_when_event_set(self.ended)),
            wait=wait_random_exponential(multiplier=self.first_wait_s, max=self.longest_wait_s),
            sleep=sleep_using_event(self.ended),
            before_sleep=lambda state: say(f"{what}: {_reason(state)}; trying again"),
            reraise=True,
        )
        failed: BaseException | None = None
        for attempt in attempts:
            if failed is not None and self.ended.is_set():
                raise failed  # tenacity wakes up for one more attempt
            with attempt:
                return act(attempt.retry_state.attempt_number > 1)
            outcome = attempt.retry_state.outcome
            failed = outcome.exception() if outcome else None
        raise AssertionError("tenacity gives an attempt or raises")


def _reason(state: RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    return error.problems[0].what if isinstance(error, TransientError) else str(error)
