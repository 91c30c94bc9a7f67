# SPDX-License-Identifier: Apache-2.0
"""Is a port of this host free for a machine's API?"""

from __future__ import annotations

import errno
import socket

from kubekiln.errors import KubekilnError


def check_port(port: int, machine: str) -> None:
    """Raise KubekilnError if nobody may listen on 127.0.0.1:`port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As QEMU and systemd do: a connection of an earlier machine that lingers is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            raise _taken(port, machine, error) from error


def is_free(port: int) -> bool:
    """Tell whether one may listen on 127.0.0.1:`port` now."""
    try:
        check_port(port, "a cluster")
    except KubekilnError:
        return False
    return True


def _taken(port: int, machine: str, error: OSError) -> KubekilnError:
    if error.errno == errno.EACCES:
        return KubekilnError(
            f"port {port} of 127.0.0.1, which leads to {machine}'s API, needs root",
            hint="choose one above 1023 in the cluster's config",
        )
    return KubekilnError(
        f"port {port} of 127.0.0.1, which leads to {machine}'s API, is taken",
        hint=f"`ss -ltnp sport = :{port}` says by whom; stop that, or choose another port in the "
        "cluster's config and render again",
    )
