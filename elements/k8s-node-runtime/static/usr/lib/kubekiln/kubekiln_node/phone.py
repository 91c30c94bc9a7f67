# SPDX-License-Identifier: Apache-2.0
"""How does a phase get to the phone-home URL without the boot noticing?"""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

TRIES = 3
TIMEOUT_S = 5.0
PAUSE_S = 2.0
LAST_WORDS_S = 20.0


class Phone:
    """A queue and one thread: `tell` returns at once, a message nobody takes is dropped."""

    def __init__(
        self, url: str, *, cluster: str, node: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._url = url
        self._who = {"cluster": cluster, "node": node}
        self._sleep = sleep
        self._queue: queue.SimpleQueue[dict[str, object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def tell(self, phase: str, t: float) -> None:
        """Queue one phase."""
        self._queue.put({**self._who, "phase": phase, "t": t})

    def hang_up(self) -> None:
        """Wait for what is queued, but not for ever."""
        self._queue.put(None)
        self._thread.join(LAST_WORDS_S)

    def _send_all(self) -> None:
        while (message := self._queue.get()) is not None:
            self._send(json.dumps(message, sort_keys=True).encode())

    def _send(self, body: bytes) -> bool:
        for attempt in range(TRIES):
            if attempt:
                self._sleep(PAUSE_S)
            request = urllib.request.Request(
                self._url, data=body, headers={"Content-Type": "application/json"}
            )
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                    answer.read()
            except (OSError, http.client.HTTPException):
                continue
            return True
        return False
