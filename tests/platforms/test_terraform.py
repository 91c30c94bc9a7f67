# SPDX-License-Identifier: Apache-2.0
"""Does OpenTofu make a cluster's machines of the module that `export terraform` writes?

With OpenStack's own provider, on a real Keystone and Glance and contract fakes of Nova and Neutron.
Both programs are built from their Go modules, which takes a quarter of an hour once.
"""

from __future__ import annotations

import base64
import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from kubekiln.operations.export import Shipment
from kubekiln.operations.exportfiles import open_output
from kubekiln.operations.exportterraform import write_terraform
from pipeline.targets.platform import DiskImage
from tests.platforms.conftest import USER_DATA, make_spec
from tests.platforms.rigs.openstack import OpenStackRig
from tests.platforms.rigs.rig import Rig
from tests.support.gobuild import GoProgram
from tests.support.tofu import BUILD_S, Tofu, make_tofu

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.timeout(BUILD_S),
    pytest.mark.parametrize("server", ["openstack"], indirect=True),
]

PROVIDER = GoProgram(
    "github.com/terraform-provider-openstack/terraform-provider-openstack/v3", "v3.4.0",
    "h1:Ap8gvameIY5ZM7CMh7fngP/VoIyeupzKX3izoyfp9yg=",
)  # fmt: skip
OTHER_DATA = USER_DATA + b"# more\n"


@pytest.fixture
def cloud(rig: Rig) -> OpenStackRig:
    return cast("OpenStackRig", rig)


@pytest.fixture
def tofu(tmp_path: Path) -> Tofu:
    source = "terraform-provider-openstack/openstack"
    return make_tofu(tmp_path, PROVIDER, source, env={"OS_CLOUD": "lab"})


def test_the_module_boots_the_cluster_and_takes_it_away(
    cloud: OpenStackRig, images: tuple[DiskImage, DiskImage], tofu: Tofu, tmp_path: Path
) -> None:
    first, second = (make_spec(tmp_path, name) for name in ("lab-1", "lab-2"))
    nodes = (first, replace(second, etcd_disk_gib=8))
    write_terraform(open_output(tofu.directory), Shipment("lab", images[0], nodes), "openstack")
    # Where the provider looks, as other clients do.
    (tofu.directory / "clouds.yaml").symlink_to(os.environ["OS_CLIENT_CONFIG_FILE"])

    tofu.begin(site(cloud))

    made = {server["name"]: server for server in cloud.nova.servers.values()}
    assert set(made) == {"lab-lab-1", "lab-lab-2"}
    for name, server in made.items():
        given = gzip.decompress(base64.b64decode(cloud.nova.user_data[server["id"]]))
        assert given == USER_DATA, name
    ports = {port["mac_address"]: port["fixed_ips"] for port in cloud.neutron.ports.values()}
    assert ports[first.macs[0]][0]["ip_address"] == first.addresses[0]
    volumes = [(volume["server"], volume["volume_size"]) for volume in cloud.nova.volumes.values()]
    assert volumes == [(made["lab-lab-2"]["id"], 8)]
    assert tofu.has_nothing_to_do(), "what was made is what the module says"

    (first.seed_dir / "user-data").write_bytes(OTHER_DATA)
    other = replace(first, payload="fedcba9876543210")
    write_terraform(
        open_output(tofu.directory), Shipment("lab", images[0], (other, nodes[1])), "openstack"
    )
    tofu.apply()
    again = {server["name"]: server["id"] for server in cloud.nova.servers.values()}
    assert again["lab-lab-2"] == made["lab-lab-2"]["id"], "a node that didn't change stays"
    assert again["lab-lab-1"] != made["lab-lab-1"]["id"], "one with another role is made anew"
    given = gzip.decompress(base64.b64decode(cloud.nova.user_data[again["lab-lab-1"]]))
    assert given == OTHER_DATA

    tofu.destroy()
    assert cloud.leftovers() == []


def site(cloud: OpenStackRig) -> dict[str, Any]:
    """What a user says of their cloud."""
    (network,) = (key for key, (name, _) in cloud.neutron.networks.items() if name == "node")
    (group,) = (key for key, name in cloud.neutron.groups.items() if name == "k8s")
    return {
        "flavors": {"worker": "m1.small"}, "network_ids": [network], "subnet_id": "subnet-node",
        "security_group_ids": [group],
    }  # fmt: skip
