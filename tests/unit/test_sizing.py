# SPDX-License-Identifier: Apache-2.0
"""Does the control plane grow with the declared number of nodes, as docs/large-clusters.md says?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit import sizing
from cloudinit.part import NodeFile
from cloudinit.sizing import SIZES, Machine, Size
from tests.conftest import ROOT
from tests.support.clusters import make_cluster, render_files

PAGE = (ROOT / "docs" / "large-clusters.md").read_text()
HA = ["master"] * 3 + ["worker"]


def nodes(*roles: str) -> list[dict[str, str]]:
    return [
        {"name": f"n-{index}", "role": role, "address": f"10.80.0.{20 + index}"}
        for index, role in enumerate(roles)
    ]


def environment(files: dict[str, NodeFile], path: str) -> dict[str, str]:
    lines = files[path].content.decode().splitlines()[1:]
    return dict(line.split("=", 1) for line in lines)


def test_sizes_go_up_and_nothing_shrinks() -> None:
    for smaller, larger in itertools.pairwise(SIZES):
        assert smaller.nodes < larger.nodes
        assert smaller.master.cpus <= larger.master.cpus
        assert smaller.etcd.memory_gib <= larger.etcd.memory_gib
        assert smaller.etcd_quota_mib <= larger.etcd_quota_mib
        assert smaller.scheduler_qps <= larger.scheduler_qps
        assert smaller.apiserver.keys() <= larger.apiserver.keys()
        assert smaller.controller_manager.keys() <= larger.controller_manager.keys()


@pytest.mark.parametrize(
    ("planned", "row"), [(None, 10), (10, 10), (11, 50), (501, 1000), (5000, 5000), (9000, 5000)]
)
def test_the_row_is_the_first_that_is_large_enough(planned: int | None, row: int) -> None:
    cluster = make_cluster(nodes=nodes(*HA), planned_nodes=planned)

    assert sizing.size_of(cluster).nodes == row


def test_machines_without_a_kubelet_count_for_nothing_and_a_plan_never_shrinks() -> None:
    roles = ["master", "etcd", "etcd", "etcd", "lb", "lb", *["worker"] * 10]

    assert make_cluster(nodes=nodes(*roles)).sized_for == 11
    assert make_cluster(nodes=nodes(*roles), planned_nodes=3).sized_for == 11
    assert make_cluster(nodes=nodes(*roles), planned_nodes=300).sized_for == 300


def test_a_small_cluster_has_one_database_and_the_components_own_defaults(tmp_path: Path) -> None:
    files = render_files(tmp_path)

    assert environment(files, "/etc/kubernetes/kube-apiserver.env")["SIZE_FLAGS"] == ""
    assert environment(files, "/etc/etcd/etcd.env")["ETCD_QUOTA_BACKEND_BYTES"] == str(4 << 30)
    assert not [path for path in files if "events" in path]
    assert "qps" not in files["/etc/kubernetes/scheduler.yaml"].content.decode()


def test_a_large_cluster_has_what_its_row_says(tmp_path: Path) -> None:
    files = render_files(tmp_path, nodes=nodes(*HA), planned_nodes=5000)

    api = environment(files, "/etc/kubernetes/kube-apiserver.env")["SIZE_FLAGS"].split()
    assert {"--max-requests-inflight=3000", "--goaway-chance=0.001"} <= set(api)
    urls = ";".join(f"https://10.80.0.{host}:2479" for host in (20, 21, 22))
    assert f"--etcd-servers-overrides=/events#{urls}" in api
    controllers = environment(files, "/etc/kubernetes/controller-manager.env")["SIZE_FLAGS"]
    assert "--kube-api-qps=500" in controllers.split()
    connection = yaml.safe_load(files["/etc/kubernetes/scheduler.yaml"].content)["clientConnection"]
    assert (connection["qps"], connection["burst"]) == (500, 500)
    haproxy = files["/etc/haproxy/haproxy.cfg"].content.decode()
    assert "GET /readyz?exclude=etcd-override-0&exclude=etcd-override-readiness-0\n" in haproxy
    assert " inter 10s fastinter 300ms downinter 20s " in haproxy


def test_a_lone_master_sends_nobody_away() -> None:
    lone = make_cluster(nodes=nodes("master", "worker"), planned_nodes=5000)

    assert "goaway-chance" not in sizing.apiserver_flags(lone)


def test_the_two_databases_of_a_member_share_nothing_but_their_certificate(tmp_path: Path) -> None:
    files = render_files(tmp_path, nodes=nodes(*HA), etcd={"events": True, "quota_mib": 512})

    main = environment(files, "/etc/etcd/etcd.env")
    events = environment(files, "/etc/etcd/etcd-events.env")
    assert {key for key in main if main[key] == events[key]} == {"ETCD_NAME"}
    assert main["ETCD_QUOTA_BACKEND_BYTES"] == str(512 << 20)
    assert events["ETCD_QUOTA_BACKEND_BYTES"] == str(4096 << 20)
    one, other = (
        files[f"/etc/systemd/system/{n}.service"].content for n in ("etcd", "etcd-events")
    )
    assert one == other


def test_a_master_without_a_database_asks_all_members_for_events(tmp_path: Path) -> None:
    roles = ["master", "master", "etcd", "etcd", "etcd"]

    files = render_files(tmp_path, nodes=nodes(*roles), etcd={"events": True})

    flags = environment(files, "/etc/kubernetes/kube-apiserver.env")["SIZE_FLAGS"]
    urls = ";".join(f"https://10.80.0.{host}:2479" for host in (22, 23, 24))
    assert f"--etcd-servers-overrides=/events#{urls}" == flags
    assert "/etc/etcd/etcd-events.env" not in files


@pytest.mark.parametrize(
    ("wanted", "planned", "apart"),
    [("auto", 500, False), ("auto", 501, True), (True, 1, True), (False, 5000, False)],
)
def test_events_are_apart_from_501_nodes_on_or_as_one_says(
    wanted: object, planned: int, apart: bool
) -> None:
    cluster = make_cluster(etcd={"events": wanted}, planned_nodes=planned)

    assert sizing.has_events_apart(cluster) is apart


def test_members_far_from_each_other_are_given_time(tmp_path: Path) -> None:
    files = render_files(tmp_path, etcd={"heartbeat_ms": 300, "election_ms": 3000})

    settings = environment(files, "/etc/etcd/etcd.env")
    assert settings["ETCD_HEARTBEAT_INTERVAL"] == "300"
    assert settings["ETCD_ELECTION_TIMEOUT"] == "3000"


@pytest.mark.parametrize(
    ("election_ms", "flags", "check"),
    [
        (1000, [], "timeout check 2s"),
        (5000, ["--etcd-healthcheck-timeout=10s", "--etcd-readycheck-timeout=10s"],
         "timeout check 10s"),
    ],
)  # fmt: skip
def test_nobody_takes_a_master_for_lost_while_its_database_may_be_silent(
    tmp_path: Path, election_ms: int, flags: list[str], check: str
) -> None:
    files = render_files(tmp_path, nodes=nodes(*HA), etcd={"election_ms": election_ms})

    said = environment(files, "/etc/kubernetes/kube-apiserver.env")["SIZE_FLAGS"].split()
    assert [flag for flag in said if "check-timeout" in flag] == flags
    assert check in files["/etc/haproxy/haproxy.cfg"].content.decode()


def test_controllers_that_reach_no_api_for_a_minute_keep_what_they_lead(tmp_path: Path) -> None:
    wanted = {"lease_s": 137, "renew_s": 107, "retry_s": 26}

    files = render_files(tmp_path, nodes=nodes(*HA), leader_election=wanted)

    settings = environment(files, "/etc/kubernetes/controller-manager.env")
    assert settings["LEADER_ELECTION"].split() == [
        "--leader-elect=true", "--leader-elect-lease-duration=137s",
        "--leader-elect-renew-deadline=107s", "--leader-elect-retry-period=26s",
    ]  # fmt: skip
    assert yaml.safe_load(files["/etc/kubernetes/scheduler.yaml"].content)["leaderElection"] == {
        "leaderElect": True, "leaseDuration": "137s", "renewDeadline": "107s", "retryPeriod": "26s",
    }  # fmt: skip


@pytest.mark.parametrize(("declared", "count"), [(1, 1), (2, 2), (32, 2), (33, 3), (200, 13)])
def test_there_is_a_name_server_for_16_nodes_and_never_one_alone_for_many(
    declared: int, count: int
) -> None:
    roles = ["master", *["worker"] * (declared - 1), "lb"]

    assert sizing.dns_replicas(make_cluster(nodes=nodes(*roles))) == count


def test_no_name_server_waits_for_a_node_that_is_only_planned() -> None:
    assert sizing.dns_replicas(make_cluster(planned_nodes=5000)) == 1
    assert sizing.dns_replicas(make_cluster(nodes=nodes(*HA), planned_nodes=5000)) == 2


def shown(machine: Machine) -> str:
    return f"{machine.cpus}, {machine.memory_gib}"


def table() -> list[str]:
    """The page's table, from the code."""
    columns: dict[str, Callable[[Size], Any]] = {
        "master: CPUs, GiB": lambda size: shown(size.master),
        "machine of etcd alone: CPUs, GiB": lambda size: shown(size.etcd),
        "`etcd.quota_mib`": lambda size: size.etcd_quota_mib,
        "`etcd.events`": lambda size: "yes" if size.has_events_apart else "no",
    }
    for name in sorted(SIZES[-1].apiserver):
        columns[f"API server `{name}`"] = lambda size, name=name: size.apiserver.get(name, "–")
    for name in sorted(SIZES[-1].controller_manager):
        columns[f"controllers `{name}`"] = lambda size, name=name: size.controller_manager.get(
            name, "–"
        )
    columns |= {
        "scheduler `qps`, `burst`": lambda size: f"{size.scheduler_qps}, {size.scheduler_burst}",
        "memory of CoreDNS, MiB": lambda size: size.dns_memory_mib,
    }
    rows = [["nodes, up to", *(f"{size.nodes:,}" for size in SIZES)], ["---"] * (len(SIZES) + 1)]
    rows += [[title, *(str(of(size)) for size in SIZES)] for title, of in columns.items()]
    return ["| " + " | ".join(row) + " |" for row in rows]


def test_the_page_has_the_table_of_the_code() -> None:
    found = [line for line in PAGE.splitlines() if line.startswith("|")]

    assert found[: len(table())] == table()


def test_the_page_gives_each_value_its_reason_and_source() -> None:
    reasons = re.findall(r"^\* (.*?)(?=^\* |^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    with_source = " ".join(reason for reason in reasons if "](http" in reason)

    flags = {*SIZES[-1].apiserver, *SIZES[-1].controller_manager, "goaway-chance"}
    assert len(flags) > 15
    for name in (*flags, "etcd.quota_mib", "etcd.events", "qps"):
        short = re.sub(r"^concurrent-(.*)-syncs$", r"\1", name)
        assert f"`{short}`" in with_source, name
