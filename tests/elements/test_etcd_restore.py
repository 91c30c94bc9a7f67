# SPDX-License-Identifier: Apache-2.0
"""Does a member of etcd begin anew from a snapshot without anything being lost on the way?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.elements import FakeBuild
from tests.support.node_runtime import PROGRAMS_DIR

SETTINGS = """\
ETCD_INITIAL_ADVERTISE_PEER_URLS=https://10.0.0.2:2380
ETCD_INITIAL_CLUSTER=m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380
ETCD_INITIAL_CLUSTER_TOKEN=lab
ETCD_NAME=m2
"""
RESTORES = 'for word; do case $word in --data-dir=*) mkdir -p "${word#*=}/member" ;; esac; done'


@pytest.fixture
def node(tmp_path: Path) -> FakeBuild:
    """A member with data; its programs only note what they are told."""
    made = FakeBuild(tmp_path)
    made.fake("etcdutl", RESTORES)
    made.fake("systemctl")
    made.put("etc/etcd/etcd.env", SETTINGS)
    made.put("var/lib/etcd/member/snap/db", "what there was")
    return made


def restore(
    node: FakeBuild, directory: str = "var/lib/etcd", *, settings: str = "etc/etcd/etcd.env"
) -> subprocess.CompletedProcess[str]:
    data = f"{node.root}/{directory}"
    return subprocess.run(
        ["sh", PROGRAMS_DIR / "etcd-restore", "/s.db", data, node.root / settings],
        env={"PATH": f"{node.commands}:/usr/bin:/bin"}, check=False, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.processes("sh")
def test_it_is_restored_as_the_member_that_it_is_and_started(node: FakeBuild) -> None:
    assert restore(node).returncode == 0

    restored, stopped, *started = node.log()
    assert restored.startswith("etcdutl snapshot restore /s.db ")
    assert "--name=m2" in restored
    assert "--initial-cluster=m1=https://10.0.0.1:2380,m2=https://10.0.0.2:2380" in restored
    assert "--mark-compacted" in restored
    assert stopped == "systemctl stop etcd.service"
    assert started == ["systemctl start --no-block etcd.service"]


@pytest.mark.processes("sh")
def test_the_data_of_before_is_put_aside_not_removed(node: FakeBuild) -> None:
    said = restore(node).stderr

    (aside,) = (node.root / "var/lib/etcd").glob("before-*")
    assert (aside / "member/snap/db").read_text() == "what there was"
    assert str(aside) in said
    assert not (node.root / "var/lib/etcd/member/snap/db").exists()
    assert not (node.root / "var/lib/etcd/restored").exists()


@pytest.mark.processes("sh")
def test_a_damaged_snapshot_stops_nothing(node: FakeBuild) -> None:
    node.fake("etcdutl", "exit 1")

    assert restore(node).returncode != 0

    assert [line for line in node.log() if line.startswith("systemctl")] == []
    assert (node.root / "var/lib/etcd/member/snap/db").read_text() == "what there was"


@pytest.mark.processes("sh")
@pytest.mark.parametrize("directory", ["var/lib/etcd-events", "var/lib/etcd-events/"])
def test_the_database_of_events_has_a_unit_of_its_own(node: FakeBuild, directory: str) -> None:
    node.put("var/lib/etcd-events/member/snap/db", "events")

    assert restore(node, directory).returncode == 0

    assert [line for line in node.log() if line.startswith("systemctl")] == [
        "systemctl stop etcd-events.service",
        "systemctl start --no-block etcd-events.service",
    ]
    assert (node.root / "var/lib/etcd/member/snap/db").read_text() == "what there was"


@pytest.mark.processes("sh")
def test_a_directory_without_settings_is_no_database(node: FakeBuild) -> None:
    done = restore(node, "var/lib/elsewhere", settings="etc/etcd/elsewhere.env")

    assert done.returncode == 1
    assert "is the directory of no database of this machine" in done.stderr
    assert node.log() == []
