# SPDX-License-Identifier: Apache-2.0
"""Who lets kubelets have their certificates? Approves those of the configured nodes and pools.

Kubernetes signs them but leaves the approval to the operator of the cluster: serving certificates
always, first client certificates because the right to them without a look is given to nobody.
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
from kubekiln_node.csr_declared import judge_declared
from kubekiln_node.csr_pools import KnownPool, claim_of, facts_about, judge_claim, read_pools
from kubekiln_node.csr_request import Verdict, is_decided
from kubekiln_node.csr_rules import Addresses, judge, read_addresses, unknown_node
from kubekiln_node.csr_seen import Seen, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG_PATH = "/etc/kubekiln/csr-approver.json"
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
# A request may be as long as a megabyte, and a reason quotes it: one that etcd wouldn't take would
# be tried for ever.
LONGEST_REASON = 1000
# What says that the API is away or lets nobody do this now: to be tried again as a whole.
AWAY = (OSError, http.client.HTTPException, ApiError)
# A kubelet may ask for its serving certificate a moment before its Node is there.
LONGEST_WAIT_S = 4.0


class Client(Protocol):
    """What the approver needs of the API."""

    def list_all(self) -> tuple[list[dict[str, object]], str]:
        """List the requests and the resource version."""

    def watch(self, version: str) -> Iterator[dict[str, object]]:
        """Yield requests from that version on."""

    def get_node(self, name: str) -> dict[str, object] | None:
        """Get a Node, if there is one of this name."""

    def get_declared(self) -> dict[str, object] | None:
        """Get the list of the nodes that are declared today, if there is one."""

    def list_nodes(self) -> list[dict[str, object]]:
        """List the Nodes."""

    def decide(self, csr: dict[str, object], condition: dict[str, object]) -> None:
        """Record a decision."""


class Config(NamedTuple):
    """The approver's own configuration file."""

    kubeconfig: str
    nodes: Addresses
    pools: tuple[KnownPool, ...] = ()


def main() -> int:
    """Approve for ever; 1 with a reason where the configuration can't be used."""
    parser = argparse.ArgumentParser(prog="csr-approver", description=__doc__)
    parser.add_argument("--config", default=CONFIG_PATH, help="default: %(default)s")
    try:
        config = read_config(parser.parse_args().config)
        kubeconfig = read_kubeconfig(config.kubeconfig)
    except (OSError, ValueError) as error:
        return fail(f"csr-approver: {error}")
    client = CsrClient(kubeconfig, serving_only=not config.pools)
    serve(client, config.nodes, config.pools)
    return 0


def read_config(path: str) -> Config:
    """Read the configuration; raises OSError or ValueError."""
    with open(path, encoding="utf-8") as stream:
        raw = json.load(stream)
    if not isinstance(raw, dict) or set(raw) - {"pools"} != {"kubeconfig", "nodes"}:
        raise ValueError(f"{path} must have exactly kubeconfig and nodes, and may have pools")
    pools = read_pools(raw.get("pools", []))
    return Config(str(raw["kubeconfig"]), read_addresses(raw["nodes"]), pools)


def serve(
    client: Client,
    nodes: Addresses,
    pools: tuple[KnownPool, ...] = (),
    *,
    sleep: Callable[[float], None] = time.sleep,
    log: Callable[[str], None] = lambda line: print(line, flush=True),
    rounds: int | None = None,
) -> None:
    """List, watch, start over; a server that is away is asked again ever more rarely."""
    pause_s = wait_s = FIRST_PAUSE_S
    approver = Approver(client, nodes, pools, log)
    while rounds is None or rounds > 0:
        rounds = None if rounds is None else rounds - 1
        try:
            items, version = client.list_all()
            pause_s = FIRST_PAUSE_S
            seen = approver.look(items)
            if any([approver.handle(csr, seen) == "wait" for csr in items]):
                # Nobody tells us when its Node is there: look again.
                sleep(wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
                continue
            wait_s = FIRST_PAUSE_S
            for csr in client.watch(version):
                # Who comes while one look's requests are decided, waits for the next, which is at
                # all of them: so many that come at once don't each cost a list of everything.
                if approver.handle(csr) == "look":
                    break
        except (OSError, http.client.HTTPException, ApiError, ValueError) as error:
            log(f"csr-approver: {error}; again in {pause_s:g} s")
            sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


class Approver:
    """Decides requests one by one, and says so."""

    def __init__(
        self,
        client: Client,
        nodes: Addresses,
        pools: tuple[KnownPool, ...],
        log: Callable[[str], None],
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._pools = pools
        self._log = log
        self._left_alone: set[str] = set()

    def look(self, requests: list[dict[str, object]]) -> Seen:
        """Take all requests, and the Nodes of this moment, to judge by."""
        now = datetime.datetime.now(tz=datetime.UTC)
        return Seen(requests, self._client.list_nodes, now)

    def handle(self, csr: dict[str, object], seen: Seen | None = None) -> str:
        """Judge one request and do accordingly; what was done, `look` where that must be seen.

        What was decided is written into the request too: those that follow are judged by it.
        """
        name = name_of(csr)
        try:
            verdict = self._judge(csr, seen)
        except AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one request does, others must go on
            verdict = Verdict("leave", f"it can't be judged: {error!r}"[:LONGEST_REASON])
        if verdict.action == "look":
            return "look"
        if verdict.action in ("leave", "wait"):
            line = f"csr-approver: {name} left alone: {verdict.reason}"
            if verdict.reason != "already decided" and line not in self._left_alone:
                self._log(line)
                self._left_alone.add(line)
            return verdict.action
        condition = condition_of(verdict)
        try:
            self._client.decide(csr, condition)
            csr["status"] = {"conditions": [condition]}
        except ApiError as error:
            if error.status in (400, 413, 422):
                self._log(f"csr-approver: {name} can't be decided: {error}")
            # Decided or deleted meanwhile: the watch brings what is left of it.
            elif error.status not in (404, 409):
                raise
            return "leave"
        self._log(f"csr-approver: {name} {verdict.action}: {verdict.reason[:LONGEST_REASON]}")
        return verdict.action

    def _judge(self, csr: dict[str, object], seen: Seen | None) -> Verdict:
        claim = claim_of(csr, self._pools, self._nodes)
        if claim is None:
            # The file wins: what it says of a node, no ConfigMap says otherwise.
            node = unknown_node(csr, self._nodes)
            if node is not None:
                return judge_declared(csr, node, self._client.get_declared)
            return judge(csr, self._nodes)
        if is_decided(csr):
            return Verdict("leave", "already decided")
        if seen is None:
            return Verdict("look", "others' requests and Nodes matter")
        own = self._client.get_node(claim.node) if claim.is_possible else None
        facts = facts_about(csr, claim, own=own, seen=seen)
        return judge_claim(csr, claim, facts, self._nodes)


def condition_of(verdict: Verdict) -> dict[str, object]:
    """Write a verdict as the API wants it."""
    now = datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "Approved" if verdict.action == "approve" else "Denied",
        "status": "True",
        "reason": "KubekilnApprover",
        "message": verdict.reason[:LONGEST_REASON],
        "lastUpdateTime": now,
    }
