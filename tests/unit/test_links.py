# SPDX-License-Identifier: Apache-2.0
"""Is each link of a node found by the declared rule, and told the same to all who configure it?"""

from __future__ import annotations

from configparser import RawConfigParser
from fnmatch import fnmatchcase
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cloudinit.links import links_of
from cloudinit.networkconfig import dump_links
from cloudinit.parts.network import network_files
from cloudinit.rules import findings
from tests.support.clusters import make_cluster

MAC = "52:54:00:00:00:01"
OTHER_MAC = "52:54:00:00:00:02"


def files(network: dict[str, Any] | None = None, **node: Any) -> dict[str, dict[str, str]]:
    """The settings in networkd's files, as `Section.Key`, by the file's name."""
    found = {}
    for file in network_files(links(network, **node)):
        assert file.mode == 0o644
        found[file.path.removeprefix("/etc/systemd/network/")] = settings(file.content.decode())
    return found


def links(network: dict[str, Any] | None = None, **node: Any) -> Any:
    cluster = lab(network, **node)
    assert findings(cluster) == []
    return links_of(cluster, cluster.nodes[0])


def lab(network: dict[str, Any] | None = None, **node: Any) -> Any:
    one = {"name": "lab-1", "role": "single", "address": "10.80.0.11", **node}
    return make_cluster(network=network or {}, nodes=[one])


def settings(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            name = f"{section}.{key}"
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def config(network: dict[str, Any] | None = None, **node: Any) -> Any:
    return yaml.safe_load(dump_links(links(network, **node)))


def test_a_lease_is_that_of_the_mac_address_and_names_no_host() -> None:
    file = files({"addressing": "dhcp"}, mac=MAC)["05-kubekiln.network"]

    assert file["Match.MACAddress"] == MAC
    assert file["Network.DHCP"] == "ipv4"
    assert file["DHCPv4.ClientIdentifier"] == "mac"
    assert file["DHCPv4.UseHostname"] == "false"
    assert not {"Network.Address", "Network.Gateway", "DHCPv4.UseRoutes"} & set(file)
    card = config({"addressing": "dhcp"}, mac=MAC)["ethernets"]["eth0"]
    assert card["dhcp4"] is True
    assert card["dhcp4-overrides"] == {"use-hostname": False}
    assert "addresses" not in card


def test_a_lease_gives_the_mtu_unless_one_is_declared() -> None:
    assert files({"addressing": "dhcp"})["05-kubekiln.network"]["DHCPv4.UseMTU"] == "true"

    declared = files({"addressing": "dhcp", "mtu": 9000})["05-kubekiln.network"]

    # networkd.network(5): with MTUBytes= that of the lease is ignored.
    assert declared["Link.MTUBytes"] == "9000"


def test_a_card_that_is_found_by_name_is_not_found_by_a_mac_address_too() -> None:
    assert files(interface="ens3")["05-kubekiln.network"]["Match.Name"] == "ens3"
    assert "Match.MACAddress" not in files(interface="ens3")["05-kubekiln.network"]
    card = config(interface="ens3")["ethernets"]["ens3"]
    assert card["match"] == {"name": "ens3"}
    assert "set-name" not in card


def test_what_is_found_exactly_is_found_before_what_a_pattern_fits() -> None:
    network = files(interface="en*", nics=[{"mac": OTHER_MAC, "address": "10.90.0.11/24"}])
    turned = files(mac=MAC, nics=[{"interface": "en*", "address": "10.90.0.11/24"}])

    for found, first, then in (
        (network, OTHER_MAC, "en*"),
        (turned, MAC, "en*"),
    ):
        order = [found[name] for name in sorted(found)]
        assert order[0]["Match.MACAddress"] == first
        assert order[1]["Match.Name"] == then


def test_the_node_network_in_a_vlan_has_the_address_on_the_vlan_alone() -> None:
    found = files({"vlan": 120, "mtu": 9000, "nameservers": ["10.80.0.3"]}, mac=MAC)

    card, vlan = found["05-kubekiln.network"], found["05-kubekiln-vlan120.network"]
    assert found["05-kubekiln-vlan120.netdev"] == {
        "NetDev.Name": "vlan120", "NetDev.Kind": "vlan", "VLAN.Id": "120",
    }  # fmt: skip
    assert card["Network.VLAN"] == "vlan120"
    assert card["Match.Type"] == "ether", "a VLAN has its card's MAC address"
    assert not {"Network.Address", "Network.Gateway"} & set(card)
    assert vlan["Match.Name"] == "vlan120"
    assert vlan["Network.Address"] == "10.80.0.11/24"
    assert vlan["Network.Gateway"] == "10.80.0.1"
    assert card["Link.MTUBytes"] == vlan["Link.MTUBytes"] == "9000"
    document = config({"vlan": 120}, mac=MAC)
    assert document["vlans"]["vlan120"]["id"] == 120
    assert document["vlans"]["vlan120"]["link"] == "eth0"
    assert document["vlans"]["vlan120"]["addresses"] == ["10.80.0.11/24"]
    assert "addresses" not in document["ethernets"]["eth0"]


@pytest.mark.parametrize("network", [{}, {"vlan": 120}, {"addressing": "dhcp"}], ids=str)
def test_declared_time_servers_are_asked_on_the_node_network_alone(network: dict[str, Any]) -> None:
    servers = ["10.80.0.1", "time.example.org"]
    found = files(
        {**network, "nameservers": ["10.80.0.3"], "ntp_servers": servers}, nics=[{"dhcp": True}]
    )

    told = {name: file.get("Network.NTP") for name, file in found.items() if "netdev" not in name}
    own = f"05-kubekiln{'-vlan120' if 'vlan' in network else ''}.network"
    assert {name for name, value in told.items() if value} == {own}
    assert str(told[own]).split() == servers
    leases = [file["DHCPv4.UseNTP"] for file in found.values() if "Network.DHCP" in file]
    assert set(leases) == {"false"}


def test_several_vlans_share_a_card() -> None:
    nics = [
        {"vlan": 130, "address": "10.90.0.11/24"},
        {"mac": OTHER_MAC, "vlan": 140, "dhcp": True},
        {"mac": OTHER_MAC, "vlan": 141, "mtu": 9000},
    ]

    found = files(mac=MAC, nics=nics)

    assert found["05-kubekiln.network"]["Network.VLAN"] == "vlan130"
    assert found["05-kubekiln-nic1.network"]["Network.VLAN"] == "vlan140 vlan141"
    assert found["05-kubekiln-nic1.network"]["Link.MTUBytes"] == "9000"
    assert len([name for name in found if name.endswith(".netdev")]) == 3


def test_a_further_card_gives_no_default_route_and_no_name_server_by_itself() -> None:
    nics = [
        {"address": "10.90.0.11/24", "routes": [{"to": "10.91.0.0/16", "via": "10.90.0.1"}]},
        {"dhcp": True},
        {},
    ]

    found = files({"nameservers": ["10.80.0.3"]}, nics=nics)

    static, leased, bare = (found[f"05-kubekiln-nic{i}.network"] for i in (1, 2, 3))
    assert static["Route.Destination"] == "10.91.0.0/16"
    assert static["Route.Gateway"] == "10.90.0.1"
    for key in ("UseDNS", "UseNTP", "UseRoutes", "UseHostname"):
        assert leased[f"DHCPv4.{key}"] == "false"
    assert "Network.Address" not in bare and "Network.DHCP" not in bare
    for card in (static, leased, bare):
        assert not {"Network.Gateway", "Network.DNS"} & set(card)
        assert card["Link.RequiredForOnline"] == "no"


def test_a_further_card_may_be_the_way_out_where_it_says_so() -> None:
    nics = [{"address": "10.90.0.11/24", "routes": [{"to": "default", "via": "10.90.0.1"}]}]

    found = files({"gateway": None}, nics=nics)

    assert found["05-kubekiln-nic1.network"]["Network.Gateway"] == "10.90.0.1"
    card = config({"gateway": None}, nics=nics)["ethernets"]["eth1"]
    assert card["routes"] == [{"to": "0.0.0.0/0", "via": "10.90.0.1"}]


names = st.sampled_from([None, "ens3", "en*", "enp1s0"])
nics = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "interface": st.sampled_from(["ens4", "ens5", "en*"]),
            "vlan": st.integers(1, 4094),
            "mtu": st.sampled_from([1400, 1500, 9000]),
        },
    ),
    max_size=4,
)


@given(names, nics, st.sampled_from([None, 120]), st.sampled_from(["static", "dhcp"]))
def test_whatever_is_declared_each_link_is_configured_once_and_as_declared(
    name: str | None, further: list[dict[str, Any]], vlan: int | None, addressing: str
) -> None:
    nics = [{**nic, "address": f"10.9{i}.0.11/24"} for i, nic in enumerate(further)]
    cluster = lab({"vlan": vlan, "addressing": addressing}, interface=name, nics=nics)
    if findings(cluster):
        return
    links = links_of(cluster, cluster.nodes[0])
    written = {f.path: settings(f.content.decode()) for f in network_files(links)}
    document = yaml.safe_load(dump_links(links))

    networks = {path: file for path, file in written.items() if path.endswith(".network")}
    assert len(networks) == len(links)
    assert len(document["ethernets"]) + len(document.get("vlans", {})) == len(links)
    addresses = [f.get("Network.Address") for f in networks.values() if f.get("Network.Address")]
    expected = [nic["address"] for nic in nics]
    assert sorted(addresses) == sorted(expected + ["10.80.0.11/24"] * (addressing == "static"))
    # The file that networkd takes for a link is the one that is meant for it.
    for link in links:
        real = {"name": link.name.replace("*", "p9s9"), "mac": link.mac or "02:00:00:00:00:00"}
        first = next(file for _, file in sorted(networks.items()) if fits(file, link, real))
        assert first.get("Network.Address", "") == (link.addresses or ("",))[0]


def fits(file: dict[str, str], link: Any, real: dict[str, str]) -> bool:
    if "Match.MACAddress" in file:
        is_ether = link.vlan is None or "Match.Type" not in file
        return file["Match.MACAddress"] == real["mac"] and is_ether
    return fnmatchcase(real["name"], file["Match.Name"])


def test_a_parser_of_such_files_reads_them() -> None:
    nics = [{"address": "10.90.0.11/24"}, {"vlan": 130, "dhcp": True}]

    for file in network_files(links({"vlan": 120}, nics=nics)):
        parser = RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(file.content.decode())
        assert parser.sections()
