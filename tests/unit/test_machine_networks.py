# SPDX-License-Identifier: Apache-2.0
"""Do machines that a target makes have the network cards that their nodes expect?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudinit.links import further_macs
from cloudinit.rules import load_cluster
from kubekiln.config import Source
from kubekiln.errors import EXIT_USAGE, ConfigError
from kubekiln.operations import up
from kubekiln.operations.placement import check_target, unmet
from pipeline.targets import nspawn, qemu, segment
from pipeline.targets.record import read_record, record_of, write_record
from tests.support.clusters import cluster_data, make_cluster, make_project, write_cluster
from tests.support.machines import make_machine
from tests.support.qemu import KVM, option
from tests.support.target import FakeTarget

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"


def lab(*nics: dict[str, Any], **network: Any) -> Any:
    one = {"name": "lab-1", "role": "single", "address": "10.80.0.11", "nics": nics}
    return make_cluster(network=network, nodes=[one])


def test_a_machine_has_each_card_once_and_none_for_a_vlan_on_its_own() -> None:
    cluster = lab(
        {"mac": MAC},
        {"vlan": 130},
        {"interface": "ens5", "vlan": 140},
        {"interface": "ens5", "vlan": 141},
        {"mac": OTHER, "vlan": 150},
    )

    found = further_macs(cluster, cluster.nodes[0])

    assert len(found) == 3
    assert (found[0], found[2]) == (MAC, OTHER)


def test_a_further_cards_made_address_is_its_own_for_each_node_and_place() -> None:
    cluster = lab({"dhcp": True}, {"dhcp": True})

    found = further_macs(cluster, cluster.nodes[0])

    assert len({*found, cluster.mac_of(cluster.nodes[0])}) == 3


def test_a_container_machine_is_plugged_into_its_networks_in_order(tmp_path: Path) -> None:
    machine = make_machine(tmp_path, mac=MAC, nics=(OTHER,))

    command = nspawn.start_command(machine, tmp_path, 1)

    assert f"{MAC},{OTHER}" in command


def test_a_virtual_machines_further_cards_are_on_a_network_of_their_own(tmp_path: Path) -> None:
    machine = make_machine(tmp_path, mac=MAC, nics=(OTHER,))

    command = qemu.qemu_command(machine, KVM)

    cards = [word for word in option(command, "-device") if word.startswith("virtio-net-pci")]
    assert [card.split(",")[2] for card in cards] == [f"mac={MAC}", f"mac={OTHER}"]
    own, further = (word.rpartition("/")[2] for word in option(command, "-netdev"))
    assert own != further


def test_a_machines_record_keeps_its_cards(tmp_path: Path) -> None:
    machine = make_machine(tmp_path, vlan=120, nics=(OTHER,))

    write_record(record_of("fake", machine))

    record = read_record(machine.run_dir)
    assert record is not None
    assert record.machine == machine
    changed = record_of("fake", replace(machine, nics=()))
    assert up.differences(record, changed) == ["nics"]


@pytest.mark.parametrize(
    ("network", "said"),
    [({"vlan": 120}, "carries VLAN 120"), ({"addressing": "dhcp"}, "by DHCP")],
    ids=["vlan", "dhcp"],
)
def test_a_network_that_no_target_has_is_said_before_any_work(
    tmp_path: Path, network: dict[str, Any], said: str
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data(network=network))

    with pytest.raises(ConfigError, match=said) as error:
        check_target(FakeTarget(), project, load_cluster("lab", project), path)

    (key,) = network
    assert error.value.exit_code == EXIT_USAGE
    assert error.value.problems[0].where == Source(path).where(("network", key))
    check_target(FakeTarget(), project, lab(), path)


def test_the_node_network_of_a_virtual_machine_may_be_tagged(tmp_path: Path) -> None:
    cluster = lab(vlan=120)

    assert list(unmet(qemu.QemuTarget(), cluster)) == []
    assert segment.switch_command(tmp_path, router_vlan=120)[-1] == "120"
