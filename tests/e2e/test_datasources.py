# SPDX-License-Identifier: Apache-2.0
"""Does a node get Ready from user-data that comes as OpenStack brings it, or by HTTP?

For OpenStack in the form that is attached there, decoded as Nova does it. A container machine has
no disk: what would be on its config drive lies in a directory where cloud-init looks for that, too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kubekiln.files import make_dir
from pipeline.targets import nspawn
from pipeline.targets.machine import Machine
from tests.e2e.conftest import BOOT_S, Lab
from tests.support.fleet import Fleet, fleet
from tests.support.leases import dhcp_server
from tests.support.metadata import ADDRESS, lay_down, metadata_service
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

IMAGE = "debian-13-cloud"
STATUS = "/run/cloud-init/status.json"
UUID = "83679162-1378-4288-a2d4-70e13ec132aa"
OTHER_NAME = "named-by-nova"
# Declared, and not what Nova says: cloud-init has started the network with that by then.
MTU = 1440


@contextmanager
def cloud(lab: Lab, name: str, empty: Path) -> Iterator[tuple[Fleet, Machine, dict[str, bytes]]]:
    """A cluster of one machine that has no seed of NoCloud's, in a network with DHCP.

    Gives the files, too, that Nova would write of it.
    """
    (node,) = lab.add_cluster(name)
    where = {"datasource": "openstack", "image": IMAGE}
    lab.edit_cluster(name, lambda config: config.update(where))
    network = {"addressing": "dhcp", "mtu": MTU}
    lab.edit_cluster(name, lambda config: config["network"].update(network))
    with fleet(lab.project, name) as made, dhcp_server(made.machines[node]) as leases:
        machine = made.machines[node]
        leases.reserve(machine)
        attached = (machine.seed_dir / "user-data.gz.b64").read_bytes()
        said = as_nova_says(machine, base64.b64decode(attached, validate=True))
        made.machines[node] = replace(machine, seed_dir=empty)
        yield made, made.machines[node], said


def as_nova_says(machine: Machine, user_data: bytes) -> dict[str, bytes]:
    """Give what a machine of Nova's reads, by path."""
    meta_data = {
        "uuid": UUID, "name": OTHER_NAME, "hostname": f"{OTHER_NAME}.novalocal",
        "availability_zone": "nova", "launch_index": 0,
    }  # fmt: skip
    card = {"id": "tap-1", "type": "ovs", "mtu": 1500, "ethernet_mac_address": machine.mac}
    network = {"id": "network0", "type": "ipv4_dhcp", "link": card["id"], "network_id": "n-1"}
    network_data = {"links": [card], "networks": [network], "services": []}
    return {
        "openstack/latest/meta_data.json": json.dumps(meta_data).encode(),
        "openstack/latest/network_data.json": json.dumps(network_data).encode(),
        "openstack/latest/user_data": user_data,
    }


def check_node(made: Fleet, machine: Machine, source: str) -> None:
    """Wait until the machine is its node, and look at where it had that from."""
    made.wait_ready()
    until(lambda: made.is_complete(machine.name), what="complete", timeout_s=120)
    assert "KUBEKILN gate=closed" not in made.console(machine.name)
    said = json.loads(made.inside(machine.name, "/bin/cat", STATUS).text)["v1"]
    assert said["datasource"].startswith(source)
    assert [stage["errors"] for stage in said.values() if isinstance(stage, dict)] == [[]] * 4
    assert made.left_by_cloud_init(machine.name) == []


def links(made: Fleet, machine: Machine) -> str:
    return made.inside(machine.name, "/usr/sbin/ip", "link", "show", "host0").text


def test_a_node_of_the_image_for_clouds_gets_ready_from_a_config_drive(
    lab: Lab, tmp_path: Path
) -> None:
    with cloud(lab, "drive", tmp_path) as (made, machine, said):
        lay_down(said, machine.run_dir / "upper/var/lib/cloud/seed/config_drive")

        made.target.boot(machine)

        check_node(made, machine, "DataSourceConfigDrive [net,ver=2]")
        assert f"mtu {MTU}" in links(made, machine)
        left = made.inside(machine.name, "/bin/ls", "/var/lib/cloud/seed").text.split()
        assert "config_drive" not in left


def test_a_node_of_the_image_for_clouds_gets_ready_from_a_metadata_service(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What firmware says of a virtual machine of Nova's, cloud-init also reads here.
    command = nspawn.nspawn_command
    told = "--setenv=product_name=OpenStack Nova"
    monkeypatch.setattr(nspawn, "nspawn_command", lambda machine: [*command(machine), told])
    served = make_dir(tmp_path / "served")
    with cloud(lab, "service", make_dir(tmp_path / "empty")) as (made, machine, said):
        listings = {
            "openstack/index": b"latest\n",
            "latest/meta-data/index": b"instance-id\n",
            "latest/meta-data/instance-id": b"i-00000001",
        }
        lay_down({**said, **listings}, served)
        with metadata_service(made, served):
            made.target.boot(machine)

            check_node(made, machine, "DataSourceOpenStackLocal [net,ver=2]")
            assert f"mtu {MTU}" in links(made, machine)


def test_a_node_gets_ready_from_a_seed_that_the_target_file_wrote_and_http_brings(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "fetching"
    (node,) = lab.add_cluster(name)
    served = tmp_path / "served"
    path = lab.project.configs_dir / "targets" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"type": "file", "directory": str(served)}))
    for verb in ("upload", "boot"):
        lab.kubekiln(verb, "--target", name, "--cluster", name)
    command = nspawn.nspawn_command
    # To a container machine's first process, as a kernel's argument is to that of a virtual one.
    told = f"ds=nocloud;s=http://{ADDRESS}/nodes/{name}/{node}/"
    monkeypatch.setattr(nspawn, "nspawn_command", lambda machine: [*command(machine), told])
    with fleet(lab.project, name) as made:
        machine = replace(made.machines[node], seed_dir=make_dir(tmp_path / "empty"))
        made.machines[node] = machine
        lent = str(machine.address.network[200])
        with dhcp_server(machine, for_all=(lent, lent)), metadata_service(made, served):
            made.target.boot(machine)

            check_node(made, machine, "DataSourceNoCloudNet")
            addresses = made.addresses(node)
            assert f"{machine.address} " in addresses
            assert f"{lent}/" not in addresses, "what it had until it knew its own"
