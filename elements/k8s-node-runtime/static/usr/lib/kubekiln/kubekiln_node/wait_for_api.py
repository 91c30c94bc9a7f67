# SPDX-License-Identifier: Apache-2.0
"""Does the API server say that it is ready? Waits until it does.

kube-apiserver tells systemd that it listens; its RBAC rules and its own clients come a moment
later, and what starts in between is refused and backs off for seconds. Until its RBAC rules are
there it answers only whoever needs none: give a certificate of the group system:masters.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from kubekiln_node.api import client_context, get
from kubekiln_node.console import fail

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

PAUSE_S = 0.1
# A look costs an emulated machine half a second of its CPU, and the server as much: who waits must
# not keep the server from getting ready.
REST_PER_LOOK = 8
LONGEST_REST_S = 3.0
USAGE = "usage: wait-for-api https://HOST:PORT/PATH SECONDS CA_FILE [CERTIFICATE_FILE KEY_FILE]"


def main() -> int:
    """Wait as the command line says; 0 ready, 1 not in time, 2 wrong usage."""
    try:
        url, seconds, ca, *pair = sys.argv[1:]
        limit_s = float(seconds)
        cert, key = pair or ("", "")
    except ValueError:
        fail(USAGE)
        return 2
    try:
        context = client_context(ca=ca, cert=cert, key=key)
    except OSError as error:
        return fail(f"wait-for-api: {', '.join([ca, *pair])}: {error}")
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
        before = clock()
        status = get(f"{scheme}://{authority}", slash + path or "/", context).status
        after = clock()
        if status == 200 or after >= give_up_at:
            return status
        sleep(min(max(PAUSE_S, REST_PER_LOOK * (after - before)), LONGEST_REST_S))


def explain(status: int) -> str:
    """Put the last answer into words."""
    return f"still answers {status}" if status else "no answer (not listening, or not trusted)"
