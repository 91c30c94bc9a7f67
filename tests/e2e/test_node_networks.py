# SPDX-License-Identifier: Apache-2.0
"""Do nodes become a cluster on a network with DHCP, large frames and second cards?

A master whose cards are found by their MAC addresses, a worker whose cards are found by name; its
tests run in the order in which they stand here. A tagged network: test_cluster.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit.flannelbackends import BACKENDS
from cloudinit.modeltypes import BackendName
from tests.e2e.conftest import BOOT_S, ROOT, Lab, free_port
from tests.golden.test_networks import FORMS, described
from tests.support.fleet import Fleet, fleet
from tests.support.leases import Leases, dhcp_server
from tests.support.network import ask, change_backend, pods_mtu, unanswered
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.in_order,
    pytest.mark.timeout(BOOT_S),
]  # fmt: skip

NAME, MASTER, WORKER = "nets", "nets-master", "nets-worker"
WRONG = "10.85.0.99"
IP_AND_UDP = 20 + 8
CLUSTER: dict[str, Any] = {
    "name": NAME,
    "kubernetes": "1.37.1",
    "network": {
        "node_cidr": "10.85.0.0/24",
        "gateway": "10.85.0.1",
        "addressing": "dhcp",
        "mtu": 9000,
        "ntp_servers": ["10.85.0.2"],
    },
    "nodes": [
        {
            "name": MASTER,
            "role": "master",
            "address": "10.85.0.11",
            "nics": [{"address": "10.90.0.11/24", "mtu": 9000}],
        },
        {
            "name": WORKER,
            "role": "worker",
            "address": "10.85.0.21",
            "interface": "host0",
            "nics": [
                {
                    "interface": "host1",
                    "address": "10.90.0.21/24",
                    "mtu": 9000,
                    "routes": [{"to": "10.91.0.0/16", "via": "10.90.0.1"}],
                }
            ],
        },
    ],
}


@dataclass(frozen=True)
class Nets:
    """The cluster, and who gives it addresses."""

    fleet: Fleet
    leases: Leases

    def links(self, name: str) -> dict[str, dict[str, Any]]:
        """A machine's links by the address that they have first."""
        said = self.fleet.inside(name, "/usr/sbin/ip", "-json", "address").text
        return {
            link["addr_info"][0]["local"]: link
            for link in json.loads(said)
            if link.get("addr_info")
        }

    def is_active(self, name: str, unit: str) -> bool:
        show = ("/usr/bin/systemctl", "is-active", "--quiet", unit)
        return self.fleet.inside(name, *show, check=False).returncode == 0


@pytest.fixture(scope="module")
def nets(lab: Lab, image: object) -> Iterator[Nets]:
    """The machines, none of which has booted; the worker's reservation is wrong."""
    config = {**CLUSTER, "api": {"host_port": free_port()}}
    (lab.project.configs_dir / "clusters" / f"{NAME}.yaml").write_text(yaml.safe_dump(config))
    with fleet(lab.project, NAME) as made, dhcp_server(made.machines[MASTER]) as leases:
        leases.reserve(made.machines[MASTER])
        leases.reserve(made.machines[WORKER], WRONG)
        yield Nets(made, leases)


def test_a_node_with_another_lease_stays_off_and_says_what_to_reserve(nets: Nets) -> None:
    nets.fleet.boot([MASTER, WORKER])

    until(lambda: "gate=closed" in nets.fleet.console(WORKER), what="a refusal", timeout_s=180)

    machine = nets.fleet.machines[WORKER]
    assert (
        f"DHCP gave {WRONG} (host0, {machine.mac}), but this node is declared as 10.85.0.21"
        in nets.fleet.console(WORKER)
    )
    assert not nets.is_active(WORKER, "kubelet.service")


def test_it_comes_up_by_itself_once_the_reservation_is_mended(nets: Nets) -> None:
    nets.leases.reserve(nets.fleet.machines[WORKER])

    nets.fleet.wait_ready()

    assert "KUBEKILN gate=open" in nets.fleet.console(WORKER)


def test_the_lease_is_the_address_and_the_way_out_but_not_the_name(nets: Nets) -> None:
    for name in (MASTER, WORKER):
        address = str(nets.fleet.machines[name].address.ip)
        assert nets.links(name)[address]["addr_info"][0]["dynamic"] is True
        routes = nets.fleet.inside(name, "/usr/sbin/ip", "route", "show", "default").text
        assert routes.count("default") == 1
        assert "via 10.85.0.1" in routes
        servers = nets.fleet.inside(name, "/usr/bin/resolvectl", "dns").text
        assert "10.85.0.1" in servers
        # What timesyncd reads; it doesn't run in container machines, whose clock is their host's.
        state = nets.fleet.inside(name, "/usr/bin/cat", "/run/systemd/netif/state").text
        assert "NTP=10.85.0.2" in state.splitlines()
        assert nets.fleet.inside(name, "/usr/bin/cat", "/proc/sys/kernel/hostname").text == name
    assert set(nets.fleet.ready_nodes()) == {MASTER, WORKER}


def test_a_second_card_leads_to_its_own_network_alone(nets: Nets) -> None:
    for name, address in ((MASTER, "10.90.0.11"), (WORKER, "10.90.0.21")):
        card = nets.links(name)[address]
        macs = nets.fleet.machines[name].nics
        assert card["address"] in macs
        assert card["mtu"] == 9000
    routes = nets.fleet.inside(WORKER, "/usr/sbin/ip", "route", "get", "10.91.2.3").text
    assert "via 10.90.0.1" in routes
    said = nets.fleet.kubectl("get", "nodes", "--output=json").stdout
    found = {
        entry["address"]
        for item in json.loads(said)["items"]
        for entry in item["status"]["addresses"]
        if entry["type"] == "InternalIP"
    }
    assert found == {"10.85.0.11", "10.85.0.21"}


@pytest.mark.parametrize("network", ["10.85.0", "10.90.0"], ids=["nodes", "storage"])
def test_large_frames_pass_whole(nets: Nets, network: str) -> None:
    # 8,972 bytes, an ICMP and an IP header make 9,000.
    ping = ("/usr/bin/ping", "-c1", "-W5", "-Mdo", "-s8972", f"{network}.21")

    assert nets.fleet.inside(MASTER, *ping).returncode == 0


def test_the_pod_network_has_what_the_nodes_network_leaves_it(nets: Nets) -> None:
    for name in (MASTER, WORKER):
        said = nets.fleet.inside(name, "/usr/sbin/ip", "-json", "link", "show", "flannel.1").text
        assert json.loads(said)[0]["mtu"] == 9000 - 50


def test_the_images_cloud_init_understands_every_form(nets: Nets) -> None:
    forms = {form: described(form) for form in FORMS}
    asked = json.dumps({form: config.decode() for form, (_, config) in forms.items()})
    program = (ROOT / "tests/support/in_machine/read_networks.py").read_text()

    said = nets.fleet.inside(
        MASTER, "/usr/bin/python3", "-c", program, stdin=asked.encode()
    ).text  # fmt: skip

    answers = json.loads(said)
    assert set(answers) == set(FORMS)
    for form, (links, _) in forms.items():
        assert answers[form]["wrong"] == "", form
        for link in links:
            file = answers[form]["files"][link.name]
            assert f"Name={link.name}" in file
            assert all(f"Address={address}" in file for address in link.addresses)
            assert ("DHCP=ipv4" in file) == link.leased


def keys_of(nets: Nets, name: str) -> str:
    """Sum up what makes a machine this node, and who it is to others."""
    places = "/etc/kubernetes/pki/*.key /etc/machine-id /etc/ssh/ssh_host_*_key"
    return nets.fleet.inside(name, "/bin/sh", "-c", f"sha256sum {places}").text


def lose_the_seed_of(nets: Nets, name: str, empty: Path) -> None:
    """Have a machine boot without what it was made from, as if its seed were detached."""
    machines = nets.fleet.machines
    machines[name] = replace(machines[name], seed_dir=empty)


def call_otherwise(nets: Nets, name: str) -> None:
    """Let a platform say that this is another instance."""
    path = nets.fleet.machines[name].seed_dir / "meta-data"
    said = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(said | {"instance-id": "another-instance"}))


def test_a_later_boot_finds_cards_and_keys_without_its_seed_whatever_they_are_called(
    nets: Nets, tmp_path: Path
) -> None:
    before = {address: link["ifname"] for address, link in nets.links(MASTER).items()}
    # cloud-init gave the names, and does nothing any more.
    assert (before["10.85.0.11"], before["10.90.0.11"]) == ("eth0", "eth1")
    keys = {name: keys_of(nets, name) for name in (MASTER, WORKER)}
    nets.fleet.cut_off(MASTER, WORKER)
    for name in (MASTER, WORKER):
        nets.fleet.machines[name].console_log.write_text("")
    lose_the_seed_of(nets, WORKER, tmp_path)
    call_otherwise(nets, MASTER)

    # Not as `up` does, who looks at the seed.
    nets.fleet.target.boot(nets.fleet.machines[WORKER])
    nets.fleet.boot([MASTER])

    for name in (MASTER, WORKER):
        until(lambda name=name: nets.fleet.is_complete(name), what=name, timeout_s=180)
    nets.fleet.wait_ready()
    assert {name: keys_of(nets, name) for name in (MASTER, WORKER)} == keys
    after = nets.links(MASTER)
    assert (after["10.85.0.11"]["ifname"], after["10.90.0.11"]["ifname"]) == ("host0", "host1")
    assert after["10.85.0.11"]["address"] == nets.fleet.machines[MASTER].mac
    assert after["10.85.0.11"]["mtu"] == after["10.90.0.11"]["mtu"] == 9000


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_packets_of_pods_pass_whole(nets: Nets, backend: BackendName) -> None:
    # The last: at a boot the gate would find files that aren't the user-data's.
    made = nets.fleet
    if backend != made.plan.cluster.network.flannel.backend:
        change_backend(made, backend)
    mtu = pods_mtu(made, backend)
    assert unanswered(made, more=[["holds", "/sys/class/net/eth0/mtu", str(mtu)]]) == {}

    addresses = [address for _, (address,), _ in made.pods("app=net")]
    assert ask(made, [["whole", address, mtu - IP_AND_UDP] for address in addresses]) == {}
