# SPDX-License-Identifier: Apache-2.0
"""Does a member of etcd with an empty disk start only where that loses nothing?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tests.support.node_runtime  # noqa: F401 (finds kubekiln_node)

from kubekiln_node import etcd_membership  # isort: skip
from kubekiln_node.api import Answer, Silence  # isort: skip

MEMBERS = {f"m{i}": f"https://10.0.0.{i}:2380" for i in (1, 2, 3)}
DATABASES = ("etcd", "etcd-events")
MARK = "/var/lib/kubekiln/etcd-member"
OTHERS = [
    {"name": f"m{i}", "peerURLs": [MEMBERS[f"m{i}"]], "clientURLs": ["https://x:2379"]}
    for i in (1, 2)
]


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "m3", "peerURLs": [MEMBERS["m3"]], "clientURLs": [], **changes}


REFUSED, UNREACHABLE, MUTE = (Answer(0, b"", silence) for silence in Silence)


def members_list(*listed: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(list(listed)).encode())


class Guard:
    """A member with an empty disk, whose clock goes on by as much as it sleeps."""

    def __init__(self, members: dict[str, str] = MEMBERS) -> None:
        self.members = members
        self.console: list[str] = []
        self.seconds = 0.0

    def judge(
        self, answer: Callable[[str, float], Answer], *, was: bool = False
    ) -> etcd_membership.Verdict:
        """Let the others answer by their URL and the time that has passed."""
        return etcd_membership.judge(
            "m3",
            self.members,
            ask=lambda server: answer(server, self.seconds),
            mark=MARK,
            was_member=was,
            tell=self.console.append,
            sleep=self._sleep,
            clock=lambda: self.seconds,
        )

    def _sleep(self, seconds: float) -> None:
        self.seconds += seconds


def judge(*listed: dict[str, Any], up: bool = True, was: bool = False) -> etcd_membership.Verdict:
    answer = members_list(*listed) if up else REFUSED
    return Guard().judge(lambda _server, _at: answer, was=was)


def test_at_the_first_boot_of_all_nobody_answers_and_it_starts() -> None:
    guard = Guard()

    assert guard.judge(lambda _server, _at: REFUSED).state == "new"
    assert (guard.seconds, guard.console) == (0, [])


def test_one_that_comes_an_hour_late_holds_up_nobody() -> None:
    guard = Guard()
    others = {MEMBERS["m1"]: REFUSED, MEMBERS["m2"]: UNREACHABLE}

    assert guard.judge(lambda server, _at: others[server]).state == "new"
    assert guard.seconds == 0


def test_the_first_machine_that_boots_goes_on_when_the_second_is_there() -> None:
    guard = Guard()

    verdict = guard.judge(
        lambda server, at: REFUSED if server == MEMBERS["m1"] and at >= 7 else UNREACHABLE
    )

    assert verdict.state == "new"
    assert guard.seconds == 7


def test_of_five_members_two_others_make_a_majority() -> None:
    guard = Guard({f"m{i}": f"https://10.0.0.{i}:2380" for i in range(1, 6)})
    up_at = {guard.members["m1"]: 0, guard.members["m5"]: 9}

    guard.judge(lambda server, at: REFUSED if at >= up_at.get(server, 3600) else UNREACHABLE)

    assert guard.seconds == 9


@pytest.mark.parametrize("before", [UNREACHABLE, MUTE, Answer(503, b"")])
def test_a_replaced_machine_whose_network_or_peers_are_slow_is_refused(before: Answer) -> None:
    guard = Guard()
    listed = members_list(*OTHERS, entry(clientURLs=["https://10.0.0.3:2379"]))

    verdict = guard.judge(lambda _server, at: listed if at >= 30 else before)

    assert verdict.state == "refused"
    assert len(guard.console) == 1
    assert ": asking again, for 45 s at most" in guard.console[0]


def test_one_that_is_busy_is_asked_again_though_a_majority_is_within_reach() -> None:
    guard = Guard()
    listed = members_list(*OTHERS, entry())
    busy = {MEMBERS["m1"]: REFUSED, MEMBERS["m2"]: MUTE}

    guard.judge(lambda server, at: listed if at >= 5 else busy[server])

    assert guard.seconds == 5
    assert guard.console[0].startswith(
        "m1 is there and listens not yet, m2 takes the connection but doesn't answer: "
    )


@pytest.mark.parametrize("answer", [UNREACHABLE, MUTE])
def test_waiting_for_the_others_ends(answer: Answer) -> None:
    guard = Guard()

    assert guard.judge(lambda _server, _at: answer).state == "new"
    assert guard.seconds == etcd_membership.ASK_FOR_S


def test_one_that_has_run_here_is_refused_without_waiting() -> None:
    guard = Guard()

    assert guard.judge(lambda _server, _at: UNREACHABLE, was=True).state == "refused"
    assert (guard.seconds, guard.console) == (0, [])


def test_a_machine_that_comes_late_starts() -> None:
    assert judge(*OTHERS, entry()).state == "new"


def test_a_member_that_has_run_and_lost_its_disk_is_refused() -> None:
    verdict = judge(*OTHERS, entry(clientURLs=["https://10.0.0.3:2379"]))

    assert verdict.state == "refused"
    assert "m1 knows it as a member that has run" in verdict.reason
    assert "etcdctl member add m3" in verdict.reason


def test_it_is_refused_also_while_no_other_member_answers() -> None:
    assert judge(up=False, was=True).state == "refused"


def test_a_single_member_does_not_begin_anew_in_silence() -> None:
    guard = Guard({"m3": MEMBERS["m3"]})

    verdict = guard.judge(lambda server, _at: pytest.fail(server), was=True)
    first = guard.judge(lambda server, _at: pytest.fail(server))

    assert verdict.state == "refused"
    assert f"restore a backup, or remove {MARK}" in verdict.reason
    assert first.state == "new"


def test_one_that_was_removed_is_refused_until_it_is_added() -> None:
    assert judge(*OTHERS).state == "refused"
    assert judge(*OTHERS, entry(name="")).state == "existing"


def test_one_that_is_added_names_the_members_that_are_there_and_not_those_of_its_rendering() -> (
    None
):
    # m1 alone has run, m2 was added as well and hasn't started; m9 was never rendered for it.
    first, ninth = OTHERS[0], {"name": "m9", "peerURLs": ["https://10.0.0.9:2380"]}
    second = {"name": "", "peerURLs": [MEMBERS["m2"]]}

    assert judge(first, entry(name="")).members == f"m1={MEMBERS['m1']},m3={MEMBERS['m3']}"
    assert judge(first, second, entry(name=""), ninth).members == (
        f"m1={MEMBERS['m1']},unnamed-1={MEMBERS['m2']},m3={MEMBERS['m3']},m9=https://10.0.0.9:2380"
    )


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>"])
def test_an_answer_that_is_no_list_of_members_counts_as_none(body: bytes) -> None:
    guard = Guard()

    assert guard.judge(lambda _server, _at: Answer(200, body)).state == "new"
    assert "takes the connection but doesn't answer" in guard.console[0]


def test_the_members_are_read_as_etcd_reads_them() -> None:
    text = ",".join(f"{name}={url}" for name, url in MEMBERS.items())

    assert etcd_membership.read_members(text) == MEMBERS


@pytest.mark.parametrize(
    ("state", "written"),
    [("new", ""), ("existing", "ETCD_INITIAL_CLUSTER_STATE=existing\nETCD_INITIAL_CLUSTER=a=b\n")],
)
@pytest.mark.parametrize("database", DATABASES)
def test_each_database_is_told_what_kind_of_cluster_it_is(
    tmp_path: Path, database: str, state: str, written: str
) -> None:
    verdict = etcd_membership.Verdict(state, members="a=b")

    assert etcd_membership.act(verdict, name="m3", database=database, root=str(tmp_path)) == 0

    assert [p.name for p in (tmp_path / "run/kubekiln").iterdir()] == [f"{database}.env"]
    assert (tmp_path / f"run/kubekiln/{database}.env").read_text() == written


@pytest.mark.parametrize("database", DATABASES)
def test_a_refusal_is_on_the_console_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], database: str
) -> None:
    verdict, console = etcd_membership.Verdict("refused", "gone"), []

    for _ in range(2):
        code = etcd_membership.act(
            verdict, name="m3", database=database, root=str(tmp_path), tell=console.append,
            now=lambda: 3.0,
        )  # fmt: skip
        assert code == 1

    assert console == [f'KUBEKILN {database}=refused reason="gone" t=3.0 node=m3']
    assert f"{database}=refused" in capsys.readouterr().err
