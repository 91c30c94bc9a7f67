# SPDX-License-Identifier: Apache-2.0
"""What do the other members of etcd say about this one, whose disk is empty?

A member that forgot what it has voted for may let the cluster forget acknowledged writes: one that
was started before begins anew only after it was removed and added again (`etcdctl member`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from kubekiln_node.api import Answer, Silence, client_context, get
from kubekiln_node.console import machine_seconds, quote, say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PKI = "/etc/etcd/pki"
# Read by the unit after its own settings.
STATE_ENV = "/run/kubekiln/{database}.env"
# The console is told once a boot, not at each of the unit's starts.
TOLD = "/run/kubekiln/{database}-refused"
# A switch's port that comes up forwards nothing for 30 s (spanning tree); and some for who is busy.
ASK_FOR_S = 45.0
PAUSE_S = 1.0
EXISTING = "ETCD_INITIAL_CLUSTER_STATE=existing\nETCD_INITIAL_CLUSTER={members}\n"


class Verdict(NamedTuple):
    """May it start, and as what: `new`, `existing` or `refused` with a reason.

    One that joins an existing cluster must name exactly the members that are there, whatever it was
    rendered with: `members`, as etcd's own setting has it.
    """

    state: str
    reason: str = ""
    members: str = ""


def main() -> int:
    """Judge by the environment of etcd.service (or etcd-events); 1 if etcd must not start."""
    mark = sys.argv[1]
    database = os.path.basename(mark).removesuffix("-member")
    name = os.environ["ETCD_NAME"]
    context = client_context(ca=f"{PKI}/ca.crt", cert=f"{PKI}/etcd.crt", key=f"{PKI}/etcd.key")
    verdict = judge(
        name,
        read_members(os.environ["ETCD_INITIAL_CLUSTER"]),
        ask=lambda server: get(server, "/members", context),
        mark=mark,
        was_member=os.path.exists(mark),
        tell=lambda why: say(
            f"KUBEKILN {database}=waiting reason={quote(why)} t={machine_seconds():.1f} node={name}"
        ),
    )
    return act(verdict, name=name, database=database)


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
            joins = verdict.state == "existing"
            stream.write(EXISTING.format(members=verdict.members) if joins else "")
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
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Ask the others until one answers, or it is clear that none will.

    Then it is a first boot, or nobody is up yet: only this machine's own mark tells that there was
    a member here.
    """
    give_up_at, is_told = clock() + ASK_FOR_S, False
    while True:
        found = look(name, members, ask)
        if isinstance(found, Verdict):
            return found
        doubt = "" if was_member else doubt_of(found)
        if not doubt or clock() >= give_up_at:
            break
        if not is_told:
            is_told = True
            tell(f"{doubt}: asking again, for {ASK_FOR_S:.0f} s at most")
        sleep(PAUSE_S)
    if not was_member:
        return Verdict("new")
    if len(members) == 1:
        return Verdict(
            "refused",
            f"the data of etcd is gone, and {name} was its only member: restore a backup, or "
            f"remove {mark} to begin anew",
        )
    return Verdict("refused", _lost(name, "there was a member here, and no other one answers"))


def look(
    name: str, members: Mapping[str, str], ask: Callable[[str], Answer]
) -> Verdict | dict[str, Silence]:
    """Ask the others one after the other; the first that answers knows. Else: why none does."""
    own_url, silences = members[name], {}
    for other, url in members.items():
        if other == name:
            continue
        answer = ask(url)
        listed = _listed(answer)
        if listed is None:
            silences[other] = answer.silence or Silence.MUTE
            continue
        entry = next((m for m in listed if own_url in m.get("peerURLs", [])), None)
        if entry is None:
            return Verdict("refused", f"{other} knows no member at {own_url}: `etcdctl member add`")
        if entry.get("clientURLs"):
            return Verdict("refused", _lost(name, f"{other} knows it as a member that has run"))
        if entry.get("name"):
            return Verdict("new")
        # Without a name: somebody added it to a cluster that runs.
        return Verdict("existing", members=initial_cluster(listed, {own_url: name}))
    return silences


def initial_cluster(listed: Sequence[Mapping[str, Any]], own: Mapping[str, str]) -> str:
    """Write the members that are there as `name=url,name=url`; `own`: the name by its URL.

    Of an existing cluster etcd compares URLs alone, so one that hasn't run yet may be called
    anything.
    """
    return ",".join(
        f"{own.get(url) or member.get('name') or f'unnamed-{index}'}={url}"
        for index, member in enumerate(listed)
        for url in member.get("peerURLs", [])
    )


def doubt_of(silences: Mapping[str, Silence]) -> str:
    """Say why there may be a cluster though no other member answers; nothing if there is none.

    One that takes connections may be busy. And while a majority isn't within reach, it may be this
    machine's own network: to ask again costs no time then, since without a majority etcd could do
    nothing. At the first boot of all it ends as soon as enough machines are up.
    """
    majority = (len(silences) + 1) // 2 + 1
    within_reach = 1 + sum(silence is not Silence.UNREACHABLE for silence in silences.values())
    if within_reach >= majority and Silence.MUTE not in silences.values():
        return ""
    return ", ".join(f"{other} {silence.value}" for other, silence in silences.items())


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
