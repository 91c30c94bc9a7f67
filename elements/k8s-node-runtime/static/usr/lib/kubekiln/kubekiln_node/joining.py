# SPDX-License-Identifier: Apache-2.0
"""What does a machine of a pool still lack to become a node of its own?

Its address, which DHCP or the platform gives; a token that the cluster takes; and beside its
kubelet, which asks for it, the first certificate. Waits for each, as long as it takes, and says on
the console what it waits for.
"""

from __future__ import annotations

import base64
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from kubekiln_node.api import client_context, get
from kubekiln_node.clock import stamp
from kubekiln_node.console import fail, quote
from kubekiln_node.pool import has_address, has_certificate
from kubekiln_node.status import write_atomic
from kubekiln_node.waiting import Rarely, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubekiln_node.pool import Pool

MANIFEST_PATH = "/etc/kubekiln/node.json"
TOKEN_PATH = "/etc/kubernetes/bootstrap-token"  # noqa: S105 - a path
# What units read that differs by machine.
ENVIRONMENT_PATH = "/run/kubekiln/node.env"
# What a holder of the token may see: 401 says that the token isn't known, 403 that it may not yet.
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
ANY_REQUEST = f"{REQUESTS}?limit=1"
SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
FIRST_REQUESTS = f"{REQUESTS}?fieldSelector=spec.signerName%3D{SIGNER}"
UNDECIDED = f"join=undecided reason={quote('no master has approved its certificate yet')}"


def main() -> int:
    """Wait for all that this machine needs before its kubelet starts, or `--certificate` after."""
    from kubekiln_node.manifest import ManifestError, read_manifest

    try:
        manifest = read_manifest(MANIFEST_PATH)
        with open(TOKEN_PATH, encoding="ascii") as stream:
            token = stream.read().strip()
        context = client_context(ca=str(manifest.report["ca"]), cert="", key="")
    except (OSError, ManifestError) as error:
        return fail(f"join: {error}")
    pool = manifest.pool
    if pool is None:
        return fail(f"join: {MANIFEST_PATH} is not that of a pool")
    waiting, server = Waiting(manifest.node), str(manifest.report["server"])
    if "--certificate" in sys.argv[1:]:
        wait_for_certificate(
            str(manifest.report["cert"]),
            lambda: refusal(
                get(server, FIRST_REQUESTS, context, token=token).json(), manifest.node
            ),
            waiting,
        )
        return 0
    wait_for_address(pool, manifest.node, waiting)
    if not has_certificate(str(manifest.report["cert"])):
        waiting.until(
            lambda: token_trouble(
                get(server, ANY_REQUEST, context, token=token).status, pool, manifest.cluster
            )
        )
    return 0


def wait_for_address(
    pool: Pool,
    node: str,
    waiting: Waiting,
    *,
    path: str = ENVIRONMENT_PATH,
    find: Callable[[str], str] | None = None,
) -> None:
    """Wait until this machine has an address of the pool's, and write it down for units."""
    find_address = find or own_address
    waiting.until(lambda: address_trouble(find_address(pool.addresses), pool))
    text = f"NODE_IP={find_address(pool.addresses)}\nNODE_NAME={node}\n"
    write_atomic(path, text, mode=0o644)


def wait_for_certificate(
    path: str,
    ask: Callable[[], str],
    waiting: Waiting,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait for the kubelet's certificate; `ask` the API now and then why it isn't there."""
    refused = Rarely(ask, until_then=UNDECIDED, clock=clock)
    waiting.until(lambda: "" if has_certificate(path) else refused())


def own_address(network: str) -> str:
    """Find the address from which this machine talks to a network; nothing if it can't yet.

    No packet is sent: connecting a UDP socket only asks the kernel for the way.
    """
    import ipaddress

    # The first address that a machine may have; the one of a /32 is the network itself.
    addresses = ipaddress.ip_network(network)
    to = str(addresses[min(1, addresses.num_addresses - 1)])
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        try:
            end.connect((to, 9))
        except OSError:
            return ""
        return str(end.getsockname()[0])


def address_trouble(address: str, pool: Pool) -> str:
    """Say what is wrong with this machine's address."""
    if address and has_address(pool.addresses, address):
        return ""
    what = f"is {address}, not" if address else "is missing, it shall be"
    return f"address=refused reason={quote(f'the address {what} in {pool.addresses}')}"


def token_trouble(status: int, pool: Pool, cluster: str) -> str:
    """Say what an API server's answer means for the pool's token."""
    if status == 200:
        return ""
    if status != 401:
        what = f"the API server answers {status}" if status else "no API server answers"
        return f"token=unanswered reason={quote(what)}"
    return "token=refused reason=" + quote(
        f"the cluster doesn't know token {pool.token_id} of pool {pool.name}, which ends on "
        f"{stamp(pool.token_expires)}: `kubekiln cluster tokens {cluster} --apply` makes it known; "
        "a machine with an older user-data is to be replaced"
    )


def refusal(listed: dict[str, object], node: str) -> str:
    """Say what became of this machine's last request for a certificate."""
    items = listed.get("items")
    own = [csr for csr in items if is_for(csr, node)] if isinstance(items, list) else []
    own.sort(key=lambda csr: str(csr["metadata"].get("creationTimestamp")))
    for csr in own[-1:]:
        for condition in csr.get("status", {}).get("conditions", []):
            if condition.get("type") == "Denied":
                why = f"{csr['metadata']['name']}: {condition.get('message')}"
                return f"join=refused reason={quote(why)}"
    return UNDECIDED


def is_for(csr: dict[str, Any], node: str) -> bool:
    """Tell whether a request is for this node's name; to parse it would take a library."""
    name = f"system:node:{node}".encode()
    try:
        lines = base64.b64decode(csr["spec"]["request"]).decode("ascii").split("-----")
        request = base64.b64decode(lines[2])
    except (KeyError, TypeError, ValueError, IndexError):
        return False
    # A name stands behind its own length (DER), so batch-1 is not in batch-10.
    return bytes([len(name)]) + name in request
