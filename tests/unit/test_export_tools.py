# SPDX-License-Identifier: Apache-2.0
"""Is what each tool is given what that tool, and the machines that it makes, need?"""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubekiln.errors import ConfigError
from kubekiln.files import sha256_file
from kubekiln.operations import exportansible, exportclusterapi, exportterraform
from kubekiln.operations.export import Shipment
from kubekiln.operations.exportclusterapi import Site, write_cluster_api
from kubekiln.operations.exportfiles import Output, open_output
from pipeline.targets.openstack_images import FIXED_HARDWARE
from tests.support.shipments import KEY, make_node, make_shipment, make_site


def variables(directory: Path) -> Any:
    return json.loads((directory / "kubekiln.auto.tfvars.json").read_text())


@pytest.fixture
def shipment(tmp_path: Path) -> Shipment:
    return make_shipment(tmp_path)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path)


@pytest.mark.parametrize("provider", sorted(exportterraform.PROVIDERS))
def test_every_path_that_terraform_is_given_leads_to_what_it_says(
    shipment: Shipment, tmp_path: Path, provider: str
) -> None:
    directory = tmp_path / "out"

    exportterraform.write_terraform(open_output(directory), shipment, provider)

    given = variables(directory)
    assert set(given["nodes"]) == {"m1", "w2"}
    node = given["nodes"]["w2"]
    seed = shipment.nodes[1].seed_dir
    assert (directory / node["user_data_path"]).read_bytes() == (seed / "user-data").read_bytes()
    packed = base64.b64decode((directory / node["user_data_gzip_b64_path"]).read_text())
    assert gzip.decompress(packed) == (seed / "user-data").read_bytes()
    assert (directory / node["seed_iso_path"]).read_bytes() == (seed / "seed.iso").read_bytes()
    assert (node["role"], node["mac"], node["addresses"]) == (
        "worker", "52:00:00:00:00:02", ["10.80.0.12"])  # fmt: skip
    if exportterraform.PROVIDERS[provider].has_image:
        assert sha256_file(directory / given["image_path"]) == given["image_sha256"]
    assert KEY not in json.dumps(given)


@pytest.mark.parametrize(
    ("write", "provider"),
    [(exportterraform.write_terraform, "aws"), (exportansible.write_ansible, "openstack")],
    ids=["gzip", "plain"],
)
def test_user_data_that_is_too_large_is_refused_before_anything_is_written(
    shipment: Shipment, tmp_path: Path, write: Any, provider: str
) -> None:
    text = "# " + base64.b64encode(random.Random(1).randbytes(60_000)).decode()
    large = make_node(tmp_path / "large", "m1", "master", text=text)
    directory = tmp_path / "out"

    with pytest.raises(ConfigError, match="m1: user-data is"):
        write(Output(directory), replace(shipment, nodes=(large,)), provider)

    assert not directory.exists()


def test_a_pools_user_data_is_held_against_the_limit_like_a_nodes(
    shipment: Shipment, site: Site, tmp_path: Path
) -> None:
    pool = tmp_path / "large"
    pool.write_text("# " + base64.b64encode(random.Random(1).randbytes(60_000)).decode())
    large = replace(site, pools=(("burst", "burst-", pool),))

    with pytest.raises(ConfigError, match="^error: burst: user-data is"):
        write_cluster_api(Output(tmp_path / "out"), shipment, large, "openstack")


def test_ansible_finds_every_host_below_its_role(shipment: Shipment, tmp_path: Path) -> None:
    directory = tmp_path / "out"

    exportansible.write_ansible(open_output(directory), shipment, "openstack")

    inventory = yaml.safe_load((directory / "inventory.yaml").read_text())
    groups = inventory["all"]["children"]["kubekiln"]["children"]
    assert set(groups) == {"kubekiln_master", "kubekiln_worker"}
    host = groups["kubekiln_worker"]["hosts"]["w2"]
    assert host["kubekiln_ports"] == [{"port-name": "lab-w2"}, {"port-name": "lab-w2-1"}]
    assert (directory / host["kubekiln_user_data_path"]).is_file()


@pytest.mark.parametrize("provider", sorted(exportclusterapi.PROVIDERS))
def test_every_machine_has_its_bootstrap_data_and_its_infrastructure(
    shipment: Shipment, site: Site, tmp_path: Path, provider: str
) -> None:
    directory = tmp_path / "out"

    write_cluster_api(open_output(directory), shipment, site, provider)

    objects = load_all(directory / "machines.yaml")
    secrets = {s["metadata"]["name"]: s for s in load_all(directory / "secrets.yaml")}
    known = {(o["kind"], o["metadata"]["name"]) for o in objects}
    machines = [o["spec"] for o in objects if o["kind"] == "Machine"]
    machines += [o["spec"]["template"]["spec"] for o in objects if o["kind"] == "MachineDeployment"]
    assert len(machines) == 3
    for machine in machines:
        reference = machine["infrastructureRef"]
        assert (reference["kind"], reference["name"]) in known
        secret = secrets[machine["bootstrap"]["dataSecretName"]]
        assert base64.b64decode(secret["data"]["format"]) == b"cloud-config"
        data = base64.b64decode(secret["data"]["value"])
        assert (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).startswith(b"#cloud")
    masters = [o["metadata"]["name"] for o in objects if o["kind"] == "Machine"
               and "cluster.x-k8s.io/control-plane" in o["metadata"]["labels"]]  # fmt: skip
    assert masters == ["lab-m1"]


def test_cluster_api_reaches_the_cluster_over_the_nodes_network(
    shipment: Shipment, site: Site, tmp_path: Path
) -> None:
    write_cluster_api(open_output(tmp_path / "out"), shipment, site, "openstack")

    secrets = {s["metadata"]["name"]: s for s in load_all(tmp_path / "out" / "secrets.yaml")}
    value = base64.b64decode(secrets["lab-kubeconfig"]["data"]["value"])
    assert yaml.safe_load(value)["current-context"] == "lab-network"


def load_all(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def test_libvirt_is_given_disks_as_files(shipment: Shipment, tmp_path: Path) -> None:
    exportterraform.write_terraform(open_output(tmp_path / "out"), shipment, "libvirt")

    module = (tmp_path / "out/main.tf").read_text()
    sources = re.findall(r"\bsource = \{\s*(\w+) = \{\s*(\w+) += (\S+)", module)

    # AppArmor's helper sees what is below a layer only of a file, not of a pool's volume.
    disks = [(kind, key, path) for kind, key, path in sources if kind != "bridge"]
    assert disks == [
        ("file", "file", "libvirt_volume.root[each.key].path"),
        ("file", "file", "volume.path"),
        ("file", "file", "libvirt_volume.seed[each.key].path"),
    ]


def test_an_image_gets_the_drives_on_openstack_that_its_kernel_sees(
    shipment: Shipment, tmp_path: Path
) -> None:
    exportterraform.write_terraform(open_output(tmp_path / "tofu"), shipment, "openstack")
    exportansible.write_ansible(open_output(tmp_path / "ansible"), shipment, "openstack")

    module = (tmp_path / "tofu/main.tf").read_text()
    plays = yaml.safe_load((tmp_path / "ansible/boot.yaml").read_text())
    (image,) = (task["openstack.cloud.image"] for task in plays[0]["tasks"]
                if "openstack.cloud.image" in task)  # fmt: skip

    assert FIXED_HARDWARE.items() <= dict(re.findall(r'(\w+) += "([^"]+)"', module)).items()
    assert FIXED_HARDWARE.items() <= image["properties"].items()
