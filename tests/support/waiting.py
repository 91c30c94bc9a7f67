# SPDX-License-Identifier: Apache-2.0
"""How do tests wait for something real without guessing how long it takes?"""

from __future__ import annotations

import time
from collections.abc import Callable


def until(
    condition: Callable[[], object], *, what: str, timeout_s: float, every_s: float = 0.1
) -> None:
    """Return when `condition` holds; fails naming `what` when time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s:g} s: {what}"
        time.sleep(every_s)
