# SPDX-License-Identifier: Apache-2.0
"""Does a member of etcd with an empty disk start only where that loses nothing?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tests.support.node_runtime  # noqa: F401 (finds kubekiln_node)

from kubekiln_node import etcd_membership  # isort: skip
from kubekiln_node.api import Answer  # isort: skip

MEMBERS = {f"m{i}": f"https://10.0.0.{i}:2380" for i in (1, 2, 3)}
DATABASES = ("etcd", "etcd-events")
MARK = "/var/lib/kubekiln/etcd-member"
OTHERS = [
    {"name": f"m{i}", "peerURLs": [MEMBERS[f"m{i}"]], "clientURLs": ["https://x:2379"]}
    for i in (1, 2)
]


def entry(**changes: Any) -> dict[str, Any]:
    return {"name": "m3", "peerURLs": [MEMBERS["m3"]], "clientURLs": [], **changes}


def judge(*listed: dict[str, Any], up: bool = True, was: bool = False) -> etcd_membership.Verdict:
    answer = Answer(200, json.dumps(list(listed)).encode()) if up else Answer(0, b"")
    return etcd_membership.judge(
        "m3", MEMBERS, ask=lambda _server: answer, mark=MARK, was_member=was
    )


def test_at_the_first_boot_of_all_nobody_answers_and_it_starts() -> None:
    assert judge(up=False).state == "new"


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
    alone = {"m3": MEMBERS["m3"]}
    ask = pytest.fail

    verdict = etcd_membership.judge("m3", alone, ask=ask, mark=MARK, was_member=True)
    first = etcd_membership.judge("m3", alone, ask=ask, mark=MARK, was_member=False)

    assert verdict.state == "refused"
    assert f"restore a backup, or remove {MARK}" in verdict.reason
    assert first.state == "new"


def test_one_that_was_removed_is_refused_until_it_is_added() -> None:
    assert judge(*OTHERS).state == "refused"
    assert judge(*OTHERS, entry(name="")).state == "existing"


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>"])
def test_an_answer_that_is_no_list_of_members_counts_as_none(body: bytes) -> None:
    verdict = etcd_membership.judge(
        "m3", MEMBERS, ask=lambda _server: Answer(200, body), mark=MARK, was_member=False
    )

    assert verdict.state == "new"


def test_the_members_are_read_as_etcd_reads_them() -> None:
    text = ",".join(f"{name}={url}" for name, url in MEMBERS.items())

    assert etcd_membership.read_members(text) == MEMBERS


@pytest.mark.parametrize(
    ("state", "written"), [("new", ""), ("existing", "ETCD_INITIAL_CLUSTER_STATE=existing\n")]
)
@pytest.mark.parametrize("database", DATABASES)
def test_each_database_is_told_what_kind_of_cluster_it_is(
    tmp_path: Path, database: str, state: str, written: str
) -> None:
    verdict = etcd_membership.Verdict(state)

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
