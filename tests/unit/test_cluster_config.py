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
from tests.support.clusters import cluster_data, make_cluster, make_project, render, write_cluster


def node(**changes: Any) -> dict[str, Any]:
    return {"name": "lab-2", "role": "single", "address": "10.80.0.12", **changes}


def masters(*roles: str, **changes: Any) -> dict[str, Any]:
    """A cluster of as many masters as one needs, and nodes of other roles."""
    return {
        "nodes": [
            {"name": f"n-{index}", "role": role, "address": f"10.80.0.{20 + index}"}
            for index, role in enumerate(roles)
        ],
        **changes,
    }


def worker_with(key: str, value: str) -> dict[str, Any]:
    """A cluster with a worker that has a label."""
    return {"nodes": [*masters("master")["nodes"], node(role="worker", labels={key: value})]}


def dual(*, nodes: list[dict[str, Any]] | None = None, **network: Any) -> dict[str, Any]:
    """A single node of both families."""
    both = {"node_cidr": ["10.80.0.0/24", "fd00:80::/64"], "gateway": ["10.80.0.1", "fd00:80::1"]}
    one = [node(address=["10.80.0.11", "fd00:80::11"])]
    return {"network": {**both, **network}, "nodes": nodes or one}


TWO = [*cluster_data()["nodes"], node()]
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a server of no address in brackets": (
        {"userdata": {"protect": "url", "server": "https://[fd00::1::2]:8443"}},
        "is not https://HOST:PORT",
    ),
    "a server of IPv4 in brackets": (
        {"userdata": {"protect": "url", "server": "https://[10.80.0.5]:8443"}},
        "is not https://HOST:PORT",
    ),
    "a server of an address that is none": (
        {"userdata": {"protect": "url", "server": "https://10.80.0.256:8443"}},
        "is not https://HOST:PORT",
    ),
    "a server of a name with an empty label": (
        {"userdata": {"protect": "url", "server": "https://kiln..example:8443"}},
        "is not https://HOST:PORT",
    ),
    "a static address where the platform gives the network": (
        {"datasource": "ec2"},
        "addressing static with datasource ec2",
    ),
    "a virtual address where none can move": (
        {
            "datasource": "ec2",
            "network": {"addressing": "dhcp"},
            "api": {"vip": "10.80.0.10"},
            **masters("master", "master", "master"),
        },
        "a virtual address with datasource ec2",
    ),
    "a virtual address in a network of routes": (
        {
            "datasource": "hetzner",
            "network": {"addressing": "dhcp"},
            "api": {"vip": "10.80.0.10"},
            **masters("master", "master", "master"),
        },
        "a virtual address with datasource hetzner",
    ),
    **{
        f"host-gw with {datasource}": (
            {
                "datasource": datasource,
                "network": {"addressing": "dhcp", "flannel": {"backend": "host-gw"}},
            },
            f"backend host-gw with datasource {datasource}: the network of",
        )
        for datasource in ("azure", "gce", "hetzner")
    },
    "two add-ons of one name": (
        {"addons": ["coredns", "./mine/coredns.yaml"]},
        "add-ons coredns and ./mine/coredns.yaml",
    ),
    "pods overlap nodes": ({"network": {"pod_cidr": "10.80.0.0/16"}}, "pod_cidr 10.80.0.0/16 over"),
    "services overlap pods": (
        {"network": {"service_cidr": "10.244.128.0/20"}},
        "service_cidr 10.244.128.0/20 overlaps pod_cidr 10.244.0.0/16",
    ),
    "host bits": ({"network": {"pod_cidr": "10.200.0.1/16"}}, "did you mean 10.200.0.0/16?"),
    "no network": ({"network": {"pod_cidr": "ten"}}, "'ten' is not a network"),
    "a network of bits": ({"network": {"node_cidr": True}}, "True is not a network"),
    "an address of bits": ({"nodes": [node(address=5)]}, "5 is not an address"),
    "IPv6 pods": ({"network": {"pod_cidr": "fd00::/56"}}, "has IPv6, node_cidr 10.80.0.0/24 has"),
    "IPv6 node": ({"nodes": [node(address="fd00::1")]}, "has IPv6, node_cidr 10.80.0.0/24 has"),
    "no address": ({"nodes": [node(address="ten")]}, "'ten' is not an address"),
    "a zone": ({"nodes": [node(address="fe80::1%eth0")]}, "'fe80::1%eth0' is not an address"),
    "another order": (
        {
            "network": {"node_cidr": ["fd00:80::/64", "10.80.0.0/24"]},
            "nodes": [node(address=["10.80.0.12", "fd00:80::12"])],
        },
        "address 10.80.0.12,fd00:80::12 has IPv4 and IPv6, node_cidr fd00:80::/64,10.80.0.0/24 has "
        "IPv6 and IPv4",
    ),
    "one of two": (dual(pod_cidr="10.244.0.0/16"), "pod_cidr 10.244.0.0/16 has IPv4, node_cidr"),
    "two of one": (
        {"network": {"node_cidr": ["10.80.0.0/24", "10.81.0.0/24"]}},
        "2 values, all or some of one family: IPv4 and IPv4",
    ),
    "a gateway of no use": ({"network": {"gateway": "fd00::1"}}, "gateway fd00::1 is IPv6, the no"),
    "a lease of IPv6": (dual(addressing="dhcp"), "dhcp gives IPv4, the nodes have IPv4 and IPv6"),
    "IPv6 where the platform gives the network": (
        {"datasource": "ec2", **dual()},
        "IPv6 needs a datasource that brings it: nocloud, vsphere",
    ),
    "IPv6 elsewhere": (
        dual(nodes=[node(address=["10.80.0.12", "fd00:81::12"])]),
        "address fd00:81::12 of lab-2 is not a host of node_cidr fd00:80::/64",
    ),
    "the routers' address": (
        dual(nodes=[node(address=["10.80.0.12", "fd00:80::"])]),
        "fd00:80:: of lab-2 is not a host",
    ),
    "IPv6 twice": (
        dual(nodes=[node(address=["10.80.0.12", "fd00:80::1"])]),
        "already that of the gateway",
    ),
    "IPv6 overlaps": (
        dual(pod_cidr=["10.244.0.0/16", "fd00:80::/56"]),
        "pod_cidr fd00:80::/56 overlaps node_cidr fd00:80::/64",
    ),
    "IPv6 host bits": (dual(pod_cidr=["10.244.0.0/16", "fd00::1/56"]), "did you mean fd00::/56?"),
    "too many IPv6 parts": (
        dual(pod_cidr=["10.244.0.0/16", "fd01::/40"]),
        "takes at most 16: a /48 or smaller",
    ),
    "IPv6 part too large": (
        dual(pod_cidr=["10.244.0.0/16", "fd01::/112"]),
        "node_mask_ipv6 64 is larger than the whole",
    ),
    "IPv6 pods too many": (
        dual(pod_cidr=["10.244.0.0/16", "fd01::/112"], node_mask_ipv6=120)
        | {"kubelet": {"max_pods": 255}},
        "more than the 254 addresses",
    ),
    "IPv6 services too many": (
        dual(service_cidr=["10.96.0.0/16", "fd02::/64"]),
        "fd02::/64 is not between /108 and /123",
    ),
    "IPv6 DNS outside": (dual(dns_ip="fd03::a"), "for example fd00:10:96::a"),
    "unknown key": ({"newtork": {}}, "did you mean 'network'?"),
    "unknown role": ({"nodes": [node(role="boss")]}, "'boss'"),
    "two names": ({"nodes": [*TWO[:1], node(name="lab-1")]}, "name lab-1 is already that of"),
    "two addresses": (
        {"nodes": [*TWO[:1], node(address="10.80.0.11")]},
        "address 10.80.0.11 is already that of node 1 (lab-1)",
    ),
    "two MACs": (
        {"nodes": [node(mac="52:54:00:00:00:01"), node(name="x", mac="52:54:00:00:00:01")]},
        "mac 52:54:00:00:00:01 is already",
    ),
    "the gateway's": ({"nodes": [node(address="10.80.0.1")]}, "already that of the gateway"),
    "elsewhere": ({"nodes": [node(address="10.81.0.5")]}, "not a host of node_cidr 10.80.0.0/24"),
    "broadcast": ({"nodes": [node(address="10.80.0.255")]}, "not a host of node_cidr"),
    "gateway elsewhere": ({"network": {"gateway": "10.9.0.1"}}, "gateway 10.9.0.1 is not a host"),
    "capitals": ({"nodes": [node(name="Lab_2")]}, "RFC 1123"),
    "too long": ({"nodes": [node(name="a" * 64)]}, "RFC 1123"),
    "not quoted": ({"kubernetes": 1.37}, 'write "1.37"'),
    "unsupported": ({"kubernetes": "1.20.0"}, "kubernetes 1.20.0 is not supported"),
    "two singles": ({"nodes": TWO}, "has role single, but the cluster has 2 nodes"),
    "no nodes": ({"nodes": []}, "at least 1 item"),
    "DNS outside": ({"network": {"dns_ip": "10.97.0.10"}}, "not a free address of service_cidr"),
    "DNS is the API": ({"network": {"dns_ip": "10.96.0.1"}}, "for example 10.96.0.10"),
    "services too many": ({"network": {"service_cidr": "11.0.0.0/8"}}, "between /12 and /27"),
    "pod network too small": (
        {"network": {"pod_cidr": "10.244.0.0/25", "node_mask": 24}},
        "node_mask 24 is larger than the whole pod_cidr",
    ),
    "a port of nothing": (
        {"network": {"flannel": {"backend": "host-gw", "port": 8472}}},
        "host-gw wraps no packets",
    ),
    "an MTU that udp would ignore": (
        {"network": {"flannel": {"backend": "udp", "mtu": 1400}}},
        "mtu 1400 is given, but udp always takes the nodes' less 28 bytes",
    ),
    "IPv6 through udp": (
        {
            "network": {
                "node_cidr": "fd00:80::/64",
                "gateway": "fd00:80::1",
                "flannel": {"backend": "udp"},
            },
            "nodes": [node(address="fd00:80::11", role="single")],
        },
        "udp carries IPv4 alone",
    ),
    "an IPv4 cache for IPv6 pods": (
        {
            "network": {"node_cidr": "fd00:80::/64", "gateway": "fd00:80::1", "dns_cache": True},
            "nodes": [node(address="fd00:80::11", role="single")],
        },
        "pods without IPv4 can't ask 169.254.20.10",
    ),
    "an MTU that host-gw would ignore": (
        {"network": {"flannel": {"backend": "host-gw", "mtu": 9000}}},
        "leave it out, or give network.mtu: 9000",
    ),
    "pods' packets too small for IPv6": (
        dual(flannel={"mtu": 1200}),
        "mtu 1200 is less than the 1280 bytes that every link of IPv4 and IPv6",
    ),
    "no room for VXLAN": (
        {"network": {"mtu": 1500, "flannel": {"mtu": 1480}}},
        "50 bytes of vxlan and 1480 of pods are more than the nodes' mtu 1500",
    ),
    "no room for VXLAN on usual cards": (
        {"network": {"flannel": {"mtu": 9000}}},
        "50 bytes of vxlan and 9000 of pods are more than the nodes' mtu 1500",
    ),
    "no room for pods": ({"network": {"mtu": 600}}, "give network.mtu: 626 or more"),
    "no master": (masters("worker", "lb"), "no node has role single or master"),
    "two members": (masters("master", "master"), "etcd would have 2 members"),
    "no etcd with kubeadm": (
        masters("master", "etcd", bootstrap="kubeadm"),
        "has role etcd, which bootstrap: kubeadm does not know",
    ),
    "no pools with kubeadm": (
        masters(
            "master",
            bootstrap="kubeadm",
            pools=[{"name": "p", "addresses": "10.80.0.128/25", "max_nodes": 5}],
        ),
        "pools are not for clusters of bootstrap: kubeadm",
    ),
    "no disk of its own with kubeadm": (
        masters("master", bootstrap="kubeadm", etcd={"disk_gib": 8}),
        "a disk of its own for etcd is not for clusters of bootstrap: kubeadm",
    ),
    "no room for a copy of the database": (
        {"etcd": {"disk_gib": 8}},
        "give disk_gib: 9 or more, or quota_mib: 3584 or less",
    ),
    "no room for a copy of a large one": (
        {"etcd": {"disk_gib": 16, "quota_mib": 8192}},
        "disk_gib 16 has no room for a database of 8192 MiB (quota_mib)",
    ),
    "no room for any database": ({"etcd": {"disk_gib": 1}}, "hint: give disk_gib: 9 or more"),
    "no events apart with kubeadm": (
        masters("master", bootstrap="kubeadm", etcd={"events": True}),
        "which bootstrap: kubeadm does not know",
    ),
    "nine members": (masters("master", *["etcd"] * 9), "each of which must take every write"),
    "address elsewhere": (masters("master", api={"vip": "10.9.0.9"}), "vip 10.9.0.9 is not a host"),
    "a node's address": (masters("master", api={"vip": "10.80.0.20"}), "machine's own address"),
    "an address for one": ({"api": {"vip": "10.80.0.9"}}, "a single node has no use"),
    "one port for two": (masters("master", api={"local_port": 6443}), "the API's own port"),
    "the port of haproxy's health": (
        masters("master", api={"local_port": 7444}),
        "local_port 7444",
    ),
    "the port of the kubelet": (
        masters("master", api={"port": 10250}),
        "is the port of the kubelet",
    ),
    "a name of the API with its port": (
        {"api": {"extra_sans": ["api.example.org:6443"]}},
        "'api.example.org:6443' is neither a DNS name nor an address",
    ),
    "a name of the API with a scheme": (
        {"api": {"extra_sans": ["https://api.example.org"]}},
        "'https://api.example.org' is neither",
    ),
    "a name of the API with its line's end": (
        {"api": {"extra_sans": ["api.example.org\n"]}},
        "'api.example.org\\n' is neither",
    ),
    "a name of the API by which nobody can reach it": (
        {"api": {"extra_sans": ["*.example.org", "api.example.org"]}},
        "*.example.org is the first of extra_sans",
    ),
    "a star within a name of the API": (
        {"api": {"extra_sans": ["api.example.org", "api.*.org"]}},
        "'api.*.org' is neither",
    ),
    "a name of the API beyond ASCII": (
        {"api": {"extra_sans": ["\u00e4pi.example.org"]}},
        "is neither a DNS name nor an address",
    ),
    "an address of the API that is none": (
        {"api": {"extra_sans": ["10.80.0.256"]}},
        "'10.80.0.256' is neither",
    ),
    "an address of the API on one link": (
        {"api": {"extra_sans": ["fe80::1%eth0"]}},
        "'fe80::1%eth0' is neither",
    ),
    "no disk to keep free": ({"kubelet": {"reserved_disk_mib": 0}}, "greater than or equal to 1"),
    "no memory to keep free": (
        {"kubelet": {"reserved_memory_mib": 0}},
        "greater than or equal to 1",
    ),
    "a label of others": (
        worker_with("node-role.kubernetes.io/worker", ""),
        "may not give itself the label node-role.kubernetes.io/worker",
    ),
    "a label of who only looks like the kubelet": (
        worker_with("my-node.kubernetes.io/x", ""),
        "may not give itself the label my-node.kubernetes.io/x",
    ),
    "a label with a space": (worker_with("a b", ""), "'a b' is not the key of a label"),
    "a label of nothing": (worker_with("example.com/", ""), "'example.com/' is not the key"),
    "a label of no domain": (worker_with("Example.com/a", ""), "'Example.com/a' is not the key"),
    "a label's long value": (worker_with("a", "x" * 64), "is not the value of a label"),
    "a label's line": (worker_with("a", "x\n"), "is not the value of a label"),
    "a label of two": (worker_with("a", "x,b=y"), "'x,b=y' is not the value of a label"),
    "pod network too small for the plan": (
        {"planned_nodes": 300},
        "pod_cidr 10.244.0.0/16 has parts for 256 nodes of 300",
    ),
    "no time to answer": (
        {"etcd": {"heartbeat_ms": 500}},
        "election_ms 1000 is less than five times heartbeat_ms 500",
    ),
    "a cluster with a long name": ({"name": "c" * 50}, "certificates have room for 49"),
    "a node with a long name": ({"nodes": [node(name="n" * 53)]}, "of a kubelet has room for 52"),
    "pods too many": ({"kubelet": {"max_pods": 500}}, "more than the 253 addresses"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG.keys())
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
    for changes, _ in WRONG.values():
        try:
            cluster = make_cluster(**changes)
        except ValueError:
            continue
        fired |= {rule.__name__ for rule in RULES if list(rule(cluster))}
    # About network cards: test_nic_rules.py; pools: test_pools.py; protection: test_protect.py.
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
