# SPDX-License-Identifier: Apache-2.0
"""Does a mistake about a node's network cards say what is wrong, where, and what to do?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloudinit.nicrules import NIC_RULES
from cloudinit.rules import load_cluster
from kubekiln.errors import ConfigError
from tests.support.clusters import cluster_data, make_cluster, make_project, write_cluster

MAC = "52:54:00:00:00:01"
STORAGE = {"address": "10.90.0.11/24"}


def node(*nics: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "name": "lab-1", "role": "single", "address": "10.80.0.11", "nics": list(nics), **changes,
    }  # fmt: skip


def routed(to: str, via: str = "10.90.0.1") -> dict[str, Any]:
    return node({**STORAGE, "routes": [{"to": to, "via": via}]})


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "two ways to find a card": (
        node(mac=MAC, interface="ens3"), {}, "a card is found by one of them",
    ),
    "two ways to find a further card": (
        node({"mac": MAC, "interface": "ens4"}), {}, "a card is found by one of them",
    ),
    "two ways to an address": (node({**STORAGE, "dhcp": True}), {}, "address and dhcp are both"),
    "one card twice": (
        node({"mac": MAC}, {"mac": MAC, **STORAGE}), {}, f"mac {MAC} is already that of lab-1",
    ),
    "the node's own card": (node({"mac": MAC}, mac=MAC), {}, f"mac {MAC} is already that of"),
    "the node's own address": (
        node({"address": "10.80.0.11/24"}), {}, "address 10.80.0.11 is already that of lab-1",
    ),
    "pods' links": (node(interface="v*"), {}, "interface v* also fits veth"),
    "everything": (node({"interface": "*"}), {}, "interface * also fits lo"),
    "two patterns for one card": (
        node({"interface": "ens4"}, interface="en*"),
        {},
        "interface ens4 may be the card that interface en* means",
    ),
    "in the node network": (
        node({"address": "10.80.0.200/25"}), {}, "overlaps node_cidr 10.80.0.0/24",
    ),
    "in the pod network": (node({"address": "10.244.3.4/24"}), {}, "overlaps pod_cidr"),
    "in the service network": (node({"address": "10.96.3.4/24"}), {}, "overlaps service_cidr"),
    "in another card's network": (
        node(STORAGE, {"address": "10.90.0.12/24"}), {}, "overlaps that of nics[0]",
    ),
    "in another card's IPv6 network": (
        node({"address": "fd00:90::11/64"}, {"address": "fd00:90::12/64"}),
        {},
        "overlaps that of nics[0], fd00:90::/64",
    ),
    "no prefix length that is one": (node({"address": "10.90.0.11/33"}), {}, "10.90.0.11/33"),
    "a router elsewhere": (routed("10.91.0.0/16", "10.92.0.1"), {}, "router 10.92.0.1 is not"),
    "its own router": (routed("10.91.0.0/16", "10.90.0.11"), {}, "router 10.90.0.11 is not"),
    "two ways out": (
        routed("default"), {}, "a second default route by 10.90.0.1, beside network.gateway",
    ),
    "a way out beside the lease's": (
        routed("0.0.0.0/0"), {"addressing": "dhcp"}, "beside the lease's",
    ),
    "a route without an address": (
        node({"dhcp": True, "routes": [{"to": "10.91.0.0/16", "via": "10.90.0.1"}]}),
        {},
        "the card has no IPv4 address of its own",
    ),
    "a route of another family": (
        node({**STORAGE, "routes": [{"to": "default", "via": "fd00:90::1"}]}),
        {},
        "a route by fd00:90::1, but the card has no IPv6 address",
    ),
    "a router of another family": (
        routed("10.91.0.0/16", "fd00:90::1"),
        {},
        "router fd00:90::1 is IPv6, 10.91.0.0/16 is IPv4",
    ),
    "an IPv6 router elsewhere": (
        node({"address": "fd00:90::11/64", "routes": [{"to": "fd00:91::/64", "via": "fd00::1"}]}),
        {},
        "router fd00::1 is not another machine of fd00:90::/64",
    ),
    "two IPv6 addresses": (
        node({"address": ["fd00:90::11/64", "fd00:91::11/64"]}), {}, "some of one family",
    ),
    "an address with a zone": (node({"address": "fe80::1%eth1/64"}), {}, "'fe80::1%eth1/64'"),
    "an address of bits": (node({"address": 10.9}), {}, "10.9 is not an address with"),
    "an address without its network": (
        node({"address": "10.90.0.11"}), {}, "'10.90.0.11' is not an address with prefix length",
    ),
    "frames too small for IPv6": (
        node({"address": "fd00:90::11/64", "mtu": 1200}), {}, "the 1280 bytes that IPv6 needs",
    ),
    "one VLAN twice": (
        node({"vlan": 120, **STORAGE}), {"vlan": 120}, "vlan 120 is already that of the node",
    ),
    "no VLAN": (node(), {"vlan": 4095}, "4095"),
    "a VLAN with larger frames": (
        node({"vlan": 130, "mtu": 9000, **STORAGE}),
        {},
        "mtu 9000 of VLAN 130 is more than the 1500 of its card",
    ),
    "no name of a card": (node(interface="eth 0"), {}, "'eth 0'"),
}  # fmt: skip


@pytest.mark.parametrize(("one", "network", "said"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, one: dict[str, Any], network: dict[str, Any], said: str
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data(nodes=[one], network=network))

    with pytest.raises(ConfigError) as error:
        load_cluster("lab", project)

    assert said in str(error.value)
    for problem in error.value.problems:
        assert (problem.where or "").startswith(f"{path}:")


def test_every_rule_finds_something_in_a_wrong_cluster() -> None:
    fired = set()
    for one, network, _ in WRONG.values():
        try:
            cluster = make_cluster(nodes=[one], network=network)
        except ValueError:
            continue
        fired |= {rule for rule in NIC_RULES if list(rule(cluster))}

    assert fired == set(NIC_RULES)


def test_two_machines_do_not_share_a_further_card(tmp_path: Path) -> None:
    nodes = [
        {"name": f"n-{i}", "role": role, "address": f"10.80.0.2{i}", "nics": [{"mac": MAC}]}
        for i, role in enumerate(("master", "worker"))
    ]
    write_cluster(make_project(tmp_path), cluster_data(nodes=nodes))

    with pytest.raises(ConfigError, match=f"mac {MAC} is already that of n-0"):
        load_cluster("lab", make_project(tmp_path))


RIGHT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "VLANs on the node's own card": (node({"vlan": 130, **STORAGE}), {"vlan": 120}),
    "a large VLAN on a large card": (
        node({"vlan": 130, "mtu": 9000, **STORAGE}), {"mtu": 9000},
    ),
    "a large VLAN beside a small one": (
        node({"vlan": 130, "mtu": 9000, **STORAGE}), {"vlan": 120, "mtu": 1500},
    ),
    "two VLANs on one named card": (
        node({"interface": "ens4", "vlan": 130}, {"interface": "ens4", "vlan": 131}), {},
    ),
    "the only way out": (routed("default"), {"gateway": None}),
    "IPv6 on a further card, and its own way out": (
        node({
            "address": ["10.90.0.11/24", "fd00:90::11/64"],
            "routes": [{"to": "default", "via": "fd00:90::1"}],
        }),
        {},
    ),
    "a card by pattern and one by MAC address": (node({"mac": MAC}, interface="en*"), {}),
}  # fmt: skip


@pytest.mark.parametrize(("one", "network"), RIGHT.values(), ids=RIGHT.keys())
def test_what_works_is_taken(tmp_path: Path, one: dict[str, Any], network: dict[str, Any]) -> None:
    write_cluster(make_project(tmp_path), cluster_data(nodes=[one], network=network))

    assert load_cluster("lab", make_project(tmp_path)).nodes[0].name == "lab-1"
