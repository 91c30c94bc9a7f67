# SPDX-License-Identifier: Apache-2.0
"""Who lets kubelets have their serving certificates? Approves those of the configured nodes.

Kubernetes signs them but leaves the approval to the operator of the cluster (kubelet-serving).
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kubekiln_node.console import fail
from kubekiln_node.csr_client import ApiError, CsrClient, read_kubeconfig
from kubekiln_node.csr_rules import Addresses, Verdict, judge, read_addresses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG_PATH = "/etc/kubekiln/csr-approver.json"
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0


class Client(Protocol):
    """What the approver needs of the API."""

    def list_all(self) -> tuple[list[dict[str, object]], str]:
        """List the requests and the resource version."""

    def watch(self, version: str) -> Iterator[dict[str, object]]:
        """Yield requests from that version on."""

    def decide(self, csr: dict[str, object], condition: dict[str, object]) -> None:
        """Record a decision."""


class Config(NamedTuple):
    """The approver's own configuration file."""

    kubeconfig: str
    nodes: Addresses


def main() -> int:
    """Approve for ever; 1 with a reason where the configuration can't be used."""
    parser = argparse.ArgumentParser(prog="csr-approver", description=__doc__)
    parser.add_argument("--config", default=CONFIG_PATH, help="default: %(default)s")
    try:
        config = read_config(parser.parse_args().config)
        client = CsrClient(read_kubeconfig(config.kubeconfig))
    except (OSError, ValueError) as error:
        return fail(f"csr-approver: {error}")
    serve(client, config.nodes)
    return 0


def read_config(path: str) -> Config:
    """Read the configuration; raises OSError or ValueError."""
    with open(path, encoding="utf-8") as stream:
        raw = json.load(stream)
    if not isinstance(raw, dict) or set(raw) != {"kubeconfig", "nodes"}:
        raise ValueError(f"{path} must have exactly kubeconfig and nodes")
    return Config(str(raw["kubeconfig"]), read_addresses(raw["nodes"]))


def serve(
    client: Client,
    nodes: Addresses,
    *,
    sleep: Callable[[float], None] = time.sleep,
    log: Callable[[str], None] = lambda line: print(line, flush=True),
    rounds: int | None = None,
) -> None:
    """List, watch, start over; a server that is away is asked again ever more rarely."""
    pause_s = FIRST_PAUSE_S
    left_alone: set[str] = set()
    while rounds is None or rounds > 0:
        rounds = None if rounds is None else rounds - 1
        try:
            items, version = client.list_all()
            pause_s = FIRST_PAUSE_S
            for csr in items:
                handle(csr, client, nodes, log=log, left_alone=left_alone)
            for csr in client.watch(version):
                handle(csr, client, nodes, log=log, left_alone=left_alone)
        except (OSError, http.client.HTTPException, ApiError, ValueError) as error:
            log(f"csr-approver: {error}; again in {pause_s:g} s")
            sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def handle(
    csr: dict[str, object],
    client: Client,
    nodes: Addresses,
    *,
    log: Callable[[str], None],
    left_alone: set[str],
) -> None:
    """Judge one request and do accordingly."""
    metadata = csr.get("metadata")
    name = str(metadata.get("name")) if isinstance(metadata, dict) else "?"
    verdict = judge(csr, nodes)
    if verdict.action == "leave":
        if verdict.reason != "already decided" and name not in left_alone:
            log(f"csr-approver: {name} left alone: {verdict.reason}")
            left_alone.add(name)
        return
    try:
        client.decide(csr, condition_of(verdict))
    except ApiError as error:
        # Decided or deleted meanwhile: the watch brings what is left of it.
        if error.status not in (404, 409):
            raise
        return
    log(f"csr-approver: {name} {verdict.action}: {verdict.reason}")


def condition_of(verdict: Verdict) -> dict[str, object]:
    """Write a verdict as the API wants it."""
    now = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "Approved" if verdict.action == "approve" else "Denied",
        "status": "True",
        "reason": "KubekilnKubeletServing",
        "message": verdict.reason,
        "lastUpdateTime": now,
    }
