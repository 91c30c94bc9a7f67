# SPDX-License-Identifier: Apache-2.0
"""What do the other members of etcd say about this one, whose disk is empty?

A member that forgot what it has voted for may let the cluster forget acknowledged writes: one that
was started before begins anew only after it was removed and added again (`etcdctl member`).
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from kubekiln_node.api import Answer, client_context, get
from kubekiln_node.console import machine_seconds, quote, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PKI = "/etc/etcd/pki"
# Read by the unit after its own settings.
STATE_ENV = "/run/kubekiln/{database}.env"
# The console is told once a boot, not at each of the unit's starts.
TOLD = "/run/kubekiln/{database}-refused"
EXISTING = "ETCD_INITIAL_CLUSTER_STATE=existing\n"


class Verdict(NamedTuple):
    """May it start, and as what: `new`, `existing` or `refused` with a reason."""

    state: str
    reason: str = ""


def main() -> int:
    """Judge by the environment of etcd.service (or etcd-events); 1 if etcd must not start."""
    mark = sys.argv[1]
    database = os.path.basename(mark).removesuffix("-member")
    context = client_context(ca=f"{PKI}/ca.crt", cert=f"{PKI}/etcd.crt", key=f"{PKI}/etcd.key")
    verdict = judge(
        os.environ["ETCD_NAME"],
        read_members(os.environ["ETCD_INITIAL_CLUSTER"]),
        ask=lambda server: get(server, "/members", context),
        mark=mark,
        was_member=os.path.exists(mark),
    )
    return act(verdict, name=os.environ["ETCD_NAME"], database=database)


def act(
    verdict: Verdict,
    *,
    name: str,
    database: str,
    root: str = "",
    tell: Callable[[str], None] = say,
    now: Callable[[], float] = machine_seconds,
) -> int:
    """Let etcd start in the right way, or say on the console why it does not."""
    state_env, told = (root + path.format(database=database) for path in (STATE_ENV, TOLD))
    os.makedirs(os.path.dirname(state_env), exist_ok=True)
    if verdict.state != "refused":
        with open(state_env, "w", encoding="ascii") as stream:
            stream.write(EXISTING if verdict.state == "existing" else "")
        return 0
    line = f"KUBEKILN {database}=refused reason={quote(verdict.reason)} t={now():.1f} node={name}"
    if not os.path.exists(told):
        open(told, "w", encoding="ascii").close()
        tell(line)
    else:
        print(line, file=sys.stderr)
    return 1


def read_members(initial_cluster: str) -> dict[str, str]:
    """Split `name=url,name=url` as etcd's own setting has it."""
    pairs = (item.partition("=") for item in initial_cluster.split(","))
    return {name: url for name, _, url in pairs}


def judge(
    name: str,
    members: Mapping[str, str],
    *,
    ask: Callable[[str], Answer],
    mark: str,
    was_member: bool,
) -> Verdict:
    """Ask the others one after the other; the first that answers knows.

    Where none answers it is a first boot, or nobody is up yet: then only this machine's own mark
    tells that there was a member here.
    """
    own_url = members[name]
    for other, url in members.items():
        if other == name:
            continue
        listed = _listed(ask(url))
        if listed is None:
            continue
        entry = next((m for m in listed if own_url in m.get("peerURLs", [])), None)
        if entry is None:
            return Verdict("refused", f"{other} knows no member at {own_url}: `etcdctl member add`")
        if entry.get("clientURLs"):
            return Verdict("refused", _lost(name, f"{other} knows it as a member that has run"))
        # Without a name: somebody added it to a cluster that runs.
        return Verdict("new" if entry.get("name") else "existing")
    if not was_member:
        return Verdict("new")
    if len(members) == 1:
        return Verdict(
            "refused",
            f"the data of etcd is gone, and {name} was its only member: restore a backup, or "
            f"remove {mark} to begin anew",
        )
    return Verdict("refused", _lost(name, "there was a member here, and no other one answers"))


def _lost(name: str, why: str) -> str:
    return (
        f"the data of etcd member {name} is gone ({why}); on another member: "
        f"`etcdctl member remove` its ID, then `etcdctl member add {name}`"
    )


def _listed(answer: Answer) -> list[dict[str, Any]] | None:
    if answer.status != 200:
        return None
    try:
        found = json.loads(answer.body)
    except ValueError:
        return None
    return found if isinstance(found, list) else None
