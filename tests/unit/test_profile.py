# SPDX-License-Identifier: Apache-2.0
"""Do `up`'s options make a cluster's config that is right, found again, and nobody else's?"""

from __future__ import annotations

import itertools
import socket
from ipaddress import ip_interface
from pathlib import Path

import pytest
import yaml

from cloudinit.rules import load_cluster
from kubekiln.errors import ConfigError
from kubekiln.files import locked
from kubekiln.operations.down import forget
from kubekiln.operations.journal import Entry, Journal
from kubekiln.operations.profile import MAX_NODES, Shape, find_or_make, resolve
from kubekiln.paths import Project
from pipeline.targets.record import record_of, write_record
from tests.support.clusters import cluster_data, make_project, snapshot, write_cluster
from tests.support.machines import make_machine


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def add_machine(project: Project, cluster: str, **changes: object) -> None:
    run_dir = project.machines_dir / cluster / f"{cluster}-1"
    write_record(record_of("fake", make_machine(project.root, run_dir=run_dir, **changes)))


def test_one_node_is_a_single_one_and_more_are_a_master_and_workers(project: Project) -> None:
    one = find_or_make(project, "one", Shape(nodes=1)).cluster
    three = find_or_make(project, "try", Shape(nodes=3, cpus=1, memory_mib=2048)).cluster

    assert [(n.name, n.role) for n in one.nodes] == [("one-1", "single")]
    assert [(n.name, n.role) for n in three.nodes] == [
        ("try-master-1", "master"), ("try-worker-1", "worker"), ("try-worker-2", "worker")
    ]  # fmt: skip
    assert {(n.cpus, n.memory_mib, n.disk_gib) for n in three.nodes} == {(1, 2048, 20)}


def test_the_largest_number_of_nodes_still_fits_its_networks(project: Project) -> None:
    assert len(find_or_make(project, "large", Shape(nodes=MAX_NODES)).cluster.nodes) == MAX_NODES


def test_the_config_is_written_and_found_again_without_options(project: Project) -> None:
    made = find_or_make(project, "try", Shape(nodes=2))

    again = find_or_make(project, "try", Shape())
    named = find_or_make(project, "try", Shape(nodes=2))

    assert made.path == project.state_dir / "try.yaml"
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert again.cluster == named.cluster == made.cluster == load_cluster("try", project)
    assert again.text is None and named.text is None
    assert "try" in project.config_names("clusters")


def test_options_without_a_name_are_the_cluster_local_and_none_are_solo(project: Project) -> None:
    assert resolve(project, None, Shape(cpus=4)).cluster.name == "local"
    assert resolve(project, None, Shape()).cluster.name == "solo"


def test_resolving_writes_nothing(project: Project) -> None:
    before = snapshot(project.root)

    assert resolve(project, "try", Shape(nodes=3)).text

    assert snapshot(project.root) == before


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        pytest.param("Try", Shape(nodes=1), "'Try' is not a host name", id="capitals"),
        pytest.param("t" * 60, Shape(nodes=2), "is not a host name", id="long-node-name"),
        pytest.param("nosuch", Shape(), "no cluster named 'nosuch'", id="nothing-said"),
        pytest.param("./no.yaml", Shape(nodes=2), "no such file", id="path"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(
    project: Project, name: str, shape: Shape, said: str
) -> None:
    before = snapshot(project.root)

    with pytest.raises(ConfigError, match=said):
        find_or_make(project, name, shape)

    assert snapshot(project.root) == before
    assert not project.state_dir.exists()


def test_options_that_contradict_a_persons_config_are_all_refused(project: Project) -> None:
    with pytest.raises(ConfigError) as error:
        find_or_make(project, "single-master", Shape(nodes=2, cpus=2, memory_mib=4096))

    text = str(error.value)
    assert "--nodes 2 is not what the config of single-master says: 3" in text
    assert "--memory 4096 is not what the config of single-master says: 2048 and 3072" in text
    assert "--cpus" not in text
    assert "hint: edit the config" in text


def test_options_that_a_persons_config_says_as_well_are_fine(project: Project) -> None:
    profile = find_or_make(project, "solo", Shape(nodes=1, cpus=2, memory_mib=3072, disk_gib=20))

    assert profile.text is None


def test_a_persons_config_goes_before_a_profile_of_the_same_name(project: Project) -> None:
    find_or_make(project, "lab", Shape(nodes=3))
    written = write_cluster(project, cluster_data())

    assert resolve(project, "lab", Shape()).path == written
    assert project.config_path("clusters", "lab") == written


def test_no_two_clusters_share_a_network_or_a_port(project: Project) -> None:
    for name in ("a", "b", "c"):
        find_or_make(project, name, Shape(nodes=2))
    clusters = [load_cluster(name, project) for name in project.config_names("clusters")]

    assert len(clusters) > 6
    for one, other in itertools.combinations(clusters, 2):
        mine, theirs = one.network.node_cidrs, other.network.node_cidrs
        assert not any(m.overlaps(t) for m in mine for t in theirs if m.version == t.version)
        assert one.api.host_port != other.api.host_port


def test_ranges_of_other_peoples_configs_and_of_machines_are_left_alone(project: Project) -> None:
    data = cluster_data(network={"node_cidr": "10.90.0.0/23", "gateway": "10.90.0.1"})
    data["nodes"][0]["address"] = "10.90.0.11"
    write_cluster(project, {**data, "api": {"host_port": 6500}})
    add_machine(project, "gone", addresses=(ip_interface("10.90.2.11/24"),), api_host_port=6501)

    made = resolve(project, "try", Shape(nodes=1)).cluster

    assert str(made.network.node_cidrs[0]) == "10.90.3.0/24"
    assert made.api.host_port == 6502


def test_a_config_that_is_wrong_does_not_stop_another_cluster(project: Project) -> None:
    write_cluster(project, {"name": "broken"}, name="broken")

    assert resolve(project, "try", Shape(nodes=1)).cluster.name == "try"


def test_a_port_that_somebody_listens_on_is_passed_over(project: Project) -> None:
    first = resolve(project, "try", Shape(nodes=1)).cluster.api.host_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen(1)

        assert resolve(project, "try", Shape(nodes=1)).cluster.api.host_port > first


def test_other_options_change_a_cluster_that_is_down_and_nothing_else_of_it(
    project: Project,
) -> None:
    before = find_or_make(project, "try", Shape(nodes=2, cpus=4)).cluster

    after = find_or_make(project, "try", Shape(nodes=3)).cluster

    assert [n.cpus for n in after.nodes] == [4, 4, 4]
    assert after.network == before.network and after.api == before.api
    assert load_cluster("try", project) == after


def test_options_that_say_what_is_so_anyway_are_fine_while_there_are_machines(
    project: Project,
) -> None:
    before = find_or_make(project, "try", Shape(nodes=2)).cluster
    add_machine(project, "try")
    cpus, memory = before.nodes[0].cpus, before.nodes[0].memory_mib

    again = find_or_make(project, "try", Shape(nodes=2, cpus=cpus, memory_mib=memory))

    assert again.cluster == before


def test_other_options_are_refused_while_there_are_machines(project: Project) -> None:
    before = find_or_make(project, "try", Shape(nodes=2)).cluster
    add_machine(project, "try")

    with pytest.raises(ConfigError, match="has machines already") as error:
        find_or_make(project, "try", Shape(nodes=3))

    assert "kubekiln down try" in str(error.value)
    assert find_or_make(project, "try", Shape()).cluster == before


def test_a_profile_is_valid_by_the_schema_and_says_who_wrote_it(project: Project) -> None:
    text = find_or_make(project, "try", Shape(nodes=2)).path.read_text()

    schema = text.splitlines()[0].partition("$schema=")[2]
    assert (project.state_dir / schema).resolve().is_file()
    assert "Written by `kubekiln up`" in text
    assert yaml.safe_load(text)["name"] == "try"


def test_a_profile_with_machines_on_a_platform_is_not_forgotten(project: Project) -> None:
    made = find_or_make(project, "try", Shape(nodes=2))
    journal = Journal(project.state_dir / "try" / "target-cloud.journal")
    journal.write(Entry("refused", "try-master-1"))
    journal.write(Entry("creating", "try-worker-1"))

    with pytest.raises(ConfigError, match="on target cloud: try-worker-1") as error:
        forget(project, "try")
    assert made.path.exists() and (project.state_dir / "try").exists()
    assert "destroy --target cloud --cluster try" in str(error.value)

    journal.write(Entry("deleted", "try-worker-1"))
    forget(project, "try")
    assert not made.path.exists()


def test_forgetting_removes_config_and_keys_of_a_profile_only(project: Project) -> None:
    find_or_make(project, "try", Shape(nodes=2))
    (project.state_dir / "try").mkdir()
    (project.nodes_dir / "try").mkdir(parents=True)

    forget(project, "try")

    assert "try" not in project.config_names("clusters")
    assert not (project.state_dir / "try").exists() and not (project.nodes_dir / "try").exists()
    with pytest.raises(ConfigError, match="not one that `kubekiln up` made"):
        forget(project, "solo")


def test_forgetting_leaves_no_key_anywhere(project: Project) -> None:
    find_or_make(project, "try", Shape(nodes=1))
    (project.state_dir / "try").mkdir()
    parents = (project.nodes_dir, project.keys_dir, project.seeds_dir)
    for directory in (p / n for p in parents for n in ("try", ".try.new", ".try.old", "other")):
        (directory / "try-1").mkdir(parents=True)
        (directory / "try-1" / "user-data").write_text("a key")

    forget(project, "try")

    left = {p.relative_to(project.build_dir).parts[1] for p in project.build_dir.rglob("user-data")}
    assert left == {"other"}


@pytest.mark.parametrize("lock", ["state/.try.lock", "build/machines/.try.lock"])
def test_forgetting_waits_for_who_renders_or_boots(
    project: Project, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    made = find_or_make(project, "try", Shape(nodes=1))

    def give_up(_: float) -> None:
        raise TimeoutError

    monkeypatch.setattr("kubekiln.files.time.sleep", give_up)
    with locked(project.root / lock), pytest.raises(TimeoutError):
        forget(project, "try")

    assert made.path.exists()


def test_forgetting_a_cluster_that_is_up_is_refused(project: Project) -> None:
    find_or_make(project, "try", Shape(nodes=1))
    add_machine(project, "try")

    with pytest.raises(ConfigError, match="has machines"):
        forget(project, "try")
