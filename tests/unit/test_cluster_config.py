# SPDX-License-Identifier: Apache-2.0
"""Does a wrong cluster configuration say what is wrong, where, and what to do?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cloudinit.nicrules import NIC_RULES
from cloudinit.parts.balancer import HEALTH_PORT
from cloudinit.parts.etcd import EVENTS, MAIN
from cloudinit.poolrules import POOL_RULES
from cloudinit.portrules import TAKEN
from cloudinit.protectrules import PROTECT_RULES
from cloudinit.rules import RULES, findings, load_cluster
from kubekiln.errors import EXIT_USAGE, ConfigError
from tests.conftest import ROOT
from tests.support import wrong_clusters, wrong_networks
from tests.support.clusters import (
    cluster_data,
    dual,
    make_cluster,
    make_project,
    masters,
    node,
    render,
    write_cluster,
)

WRONG = [*wrong_clusters.WRONG.items(), *wrong_networks.WRONG.items()]


@pytest.mark.parametrize(
    ("changes", "said"), [case for _, case in WRONG], ids=[name for name, _ in WRONG]
)
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data(**changes))

    with pytest.raises(ConfigError) as error:
        load_cluster("lab", project)

    assert said in str(error.value)
    assert error.value.exit_code == EXIT_USAGE
    for problem in error.value.problems:
        assert problem.where is not None and problem.where.startswith(f"{path}:")


@pytest.mark.parametrize("addressing", ["static", "dhcp"])
def test_no_way_of_addressing_is_said_to_bring_ipv6_where_none_does(addressing: str) -> None:
    found = findings(make_cluster(datasource="gce", **dual(addressing=addressing)))

    assert [finding.at for finding in found] == [("network", "node_cidr")]


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    network = {"gateway": "10.9.0.1", "dns_ip": "10.97.0.10", "pod_cidr": "10.96.0.0/16"}
    write_cluster(project, cluster_data(network=network, nodes=[node(address="10.81.0.1")]))

    with pytest.raises(ConfigError) as error:
        load_cluster("lab", project)

    assert len(error.value.problems) == 4
    lines = [int((p.where or "").split(":")[1].split(" ")[0]) for p in error.value.problems]
    assert lines == sorted(lines)


def test_every_rule_has_nothing_against_a_good_cluster_and_something_against_a_bad_one(
    tmp_path: Path,
) -> None:
    assert findings(make_cluster()) == []
    fired = set()
    for _, (changes, _) in WRONG:
        try:
            cluster = make_cluster(**changes)
        except ValueError:
            continue
        fired |= {rule.__name__ for rule in RULES if list(rule(cluster))}
    # About network cards: test_nic_rules.py; pools: test_pool_rules.py; protection:
    # test_protect_rules.py.
    elsewhere = (*NIC_RULES, *POOL_RULES, *PROTECT_RULES)
    assert fired == {rule.__name__ for rule in RULES if rule not in elsewhere}


def test_the_longest_names_that_are_taken_can_be_rendered(tmp_path: Path) -> None:
    names = {"name": "c" * 49, "nodes": [node(name="n" * 52)]}

    assert findings(make_cluster(**names)) == []
    assert len(render(tmp_path, **names).nodes) == 1


def test_the_ports_that_are_taken_are_those_that_parts_name() -> None:
    named = {HEALTH_PORT}
    for database in (MAIN, EVENTS):
        named |= {database.client_port, database.peer_port, database.metrics_port}
    templates = ROOT / "cloudinit/templates/etc"
    for path, pattern in (
        ("coredns/Corefile.j2", r"prometheus :(\d+)"),
        ("kubernetes/kube-proxy.yaml.j2", r"metricsBindAddress: \S+:(\d+)"),
    ):
        (port,) = set(re.findall(pattern, (templates / path).read_text()))
        named.add(int(port))

    # The others are the components' own defaults.
    assert set(TAKEN) - named == {22, 53, 10248, 10250, 10256, 10257, 10259}
    assert named <= set(TAKEN)


@pytest.mark.parametrize(
    "name",
    ["api", "api.example.org", "*.example.org", "203.0.113.7", "fd00:80::9", "2001:db8::", "4.a"],
)
def test_the_api_may_have_any_name_that_a_certificate_can_have(name: str) -> None:
    cluster = make_cluster(api={"extra_sans": ["first.example.org", name]})

    assert cluster.api.extra_sans[1] == name
    assert cluster.api_host == "first.example.org"


@pytest.mark.parametrize("datasource", ["ec2", "openstack"])
def test_a_network_that_can_be_told_to_lets_pods_pass(datasource: str) -> None:
    network = {"addressing": "dhcp", "flannel": {"backend": "host-gw"}}

    assert findings(make_cluster(datasource=datasource, network=network)) == []


@pytest.mark.parametrize(
    "network",
    [
        {"flannel": {"mtu": 1450}},
        {"mtu": 9050, "flannel": {"mtu": 9000}},
        {"addressing": "dhcp", "flannel": {"mtu": 9000}},
    ],
)
def test_pods_may_fill_what_the_nodes_send_and_a_lease_may_say_how_much(
    network: dict[str, Any],
) -> None:
    assert findings(make_cluster(network=network)) == []


def test_a_disk_that_has_just_room_for_two_databases_is_taken() -> None:
    assert findings(make_cluster(etcd={"disk_gib": 9})) == []
    assert findings(make_cluster(etcd={"disk_gib": 2, "quota_mib": 512})) == []


def test_a_worker_may_have_labels_of_its_own_and_of_where_it_is(tmp_path: Path) -> None:
    labels = {
        "disk": "ssd", "topology.kubernetes.io/zone": "z1", "example.com/rack": "7", "A_b.c": "",
        "node.kubernetes.io/x": "y", "a.node.kubernetes.io/x": "y", "mykubernetes.io/x": "z",
    }  # fmt: skip
    nodes = [*masters("master")["nodes"], node(role="worker", labels=labels)]

    assert findings(make_cluster(nodes=nodes)) == []


@pytest.mark.parametrize(
    ("roles", "members"),
    [
        (["single"], "n-0"),
        (["master"] * 3 + ["worker"], "n-0 n-1 n-2"),
        (["master"] * 2 + ["etcd"] * 3 + ["lb"], "n-2 n-3 n-4"),
    ],
)
def test_the_database_is_on_machines_of_its_own_or_on_the_masters(
    roles: list[str], members: str
) -> None:
    cluster = make_cluster(**masters(*roles))

    assert findings(cluster) == []
    assert " ".join(member.name for member in cluster.etcd_members) == members


def test_a_cluster_is_named_after_its_file_unless_it_says_otherwise(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    data = cluster_data()
    del data["name"]
    write_cluster(project, data, "field")

    assert load_cluster("field", project).name == "field"


@pytest.mark.parametrize("place", ["configs/clusters", "state"])
@pytest.mark.parametrize("by", ["name", "path"])
def test_a_copy_that_kept_the_name_of_its_original_is_refused(
    tmp_path: Path, place: str, by: str
) -> None:
    project = make_project(tmp_path)
    copy = tmp_path / place / "mine.yaml"
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(project.config_path("clusters", "solo").read_bytes())
    line = copy.read_text().splitlines().index("name: solo") + 1

    with pytest.raises(ConfigError, match="name solo is not that of the file, mine") as error:
        load_cluster("mine" if by == "name" else str(copy), project)

    assert error.value.problems[0].where == f"{copy}:{line} (name)"
    assert error.value.problems[0].hint == "write name: mine, or leave the key out"


def test_the_example_loads(tmp_path: Path) -> None:
    cluster = load_cluster("solo", make_project(tmp_path))

    assert [(n.name, n.role) for n in cluster.nodes] == [("solo-1", "single")]


def test_mac_addresses_are_stable_local_and_differ_by_node_and_cluster() -> None:
    one, other = make_cluster(), make_cluster(name="other")
    first = one.mac_of(one.nodes[0])

    assert first == make_cluster().mac_of(make_cluster().nodes[0])
    assert first.startswith("52:")
    assert first != other.mac_of(other.nodes[0])
    given = make_cluster(nodes=[node(mac="AA:BB:CC:00:11:22")])
    assert given.mac_of(given.nodes[0]) == "aa:bb:cc:00:11:22"


def test_thousands_of_nodes_get_addresses_of_their_own() -> None:
    names = [f"w-{number:05}" for number in range(20_000)]
    cluster = make_cluster()
    node = cluster.nodes[0]

    macs = {cluster.mac_of(node.model_copy(update={"name": name})) for name in names}

    assert len(macs) == len(names)
