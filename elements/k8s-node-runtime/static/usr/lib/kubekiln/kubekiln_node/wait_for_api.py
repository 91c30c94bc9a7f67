# SPDX-License-Identifier: Apache-2.0
"""Does the API server say that it is ready? Waits until it does.

kube-apiserver tells systemd that it listens; its RBAC rules and its own clients come a moment
later, and what starts in between is refused and backs off for seconds.
"""

from __future__ import annotations

import ssl
import sys
import time
from typing import TYPE_CHECKING

from kubekiln_node.api import get
from kubekiln_node.console import fail

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S = 0.1
USAGE = "usage: wait-for-api https://HOST:PORT/PATH CA_FILE SECONDS"


def main() -> int:
    """Wait as the command line says; 0 ready, 1 not in time, 2 wrong usage."""
    try:
        url, ca, seconds = sys.argv[1:]
        limit_s = float(seconds)
    except ValueError:
        fail(USAGE)
        return 2
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
    except OSError as error:
        return fail(f"wait-for-api: {ca}: {error}")
    status = wait(url, context, limit_s=limit_s)
    return 0 if status == 200 else fail(f"wait-for-api: {url}: {explain(status)}")


def wait(
    url: str,
    context: ssl.SSLContext,
    *,
    limit_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Ask until 200 or the limit; the last answer's status (0 for none)."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    give_up_at = clock() + limit_s
    while True:
        status = get(f"{scheme}://{authority}", slash + path or "/", context).status
        if status == 200 or clock() >= give_up_at:
            return status
        sleep(PAUSE_S)


def explain(status: int) -> str:
    """Put the last answer into words."""
    return f"still answers {status}" if status else "no answer (not listening, or not trusted)"
