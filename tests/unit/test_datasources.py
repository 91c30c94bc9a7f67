# SPDX-License-Identifier: Apache-2.0
"""Is what is attached on each platform what cloud-init reads there, and never too large for it?"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from cloudinit import check
from cloudinit.datasource import measure_all
from cloudinit.part import Context, NodeFile
from cloudinit.render import render_cluster, render_payloads
from cloudinit.rules import findings
from cloudinit.userdata import MANIFEST_PATH, render_userdata
from kubekiln.channel import CHANNELS, DatasourceName, compress
from kubekiln.errors import ConfigError
from kubekiln.operations.delivery import Delivery
from kubekiln.operations.prepare import load
from kubekiln.operations.shipment import plan_of
from pipeline.datasources import SourceName
from pipeline.model import load_image
from tests.support.clusters import (
    NOW,
    cluster_data,
    make_cluster,
    make_project,
    make_state,
    render,
    write_cluster,
)
from tests.support.platform import SimulatedPlatform

SEED = {"user-data": b"#cloud-config\n", "meta-data": b"instance-id: i\n",
        "network-config": b"version: 2\nethernets: {}\n"}  # fmt: skip
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "user-data.gz": gzip.decompress,
    "user-data.gz.b64": lambda data: gzip.decompress(base64.b64decode(data, validate=True)),
    "guestinfo.userdata": lambda data: gzip.decompress(base64.b64decode(data, validate=True)),
}
BY_NETWORK = [name for name, channel in CHANNELS.items() if not channel.carries_network]
DHCP = {"network": {"addressing": "dhcp"}}


def of_platform(name: DatasourceName, **changes: Any) -> dict[str, Any]:
    return {"datasource": name, **({} if CHANNELS[name].carries_network else DHCP), **changes}


def context_of(root: Path, **changes: Any) -> Context:
    cluster, project = make_cluster(**changes), make_project(root)
    return render_payloads(cluster, state=make_state(root), project=project)[0].context


def test_every_datasource_has_a_channel_and_cloud_init_knows_it() -> None:
    assert CHANNELS.keys() == set(get_args(DatasourceName))
    for channel in CHANNELS.values():
        assert set(channel.sources) <= set(get_args(SourceName))


@pytest.mark.parametrize("name", [n for n in CHANNELS if n != "nocloud"])
def test_what_is_attached_unpacks_to_the_user_data(name: DatasourceName, tmp_path: Path) -> None:
    node = render(tmp_path, **of_platform(name)).nodes[0]
    file = CHANNELS[name].file

    attached = (node.directory / file).read_bytes()

    assert PACKED[file](attached) == node.user_data.read_bytes()
    assert len(attached) == CHANNELS[name].measure(node.size_gzip)
    assert (node.directory / file).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", BY_NETWORK)
def test_a_pool_renders_where_the_platform_gives_the_addresses(
    name: DatasourceName, tmp_path: Path
) -> None:
    master = {"name": "m-1", "role": "master", "address": "10.80.0.11"}
    batch = {"name": "batch", "addresses": "10.80.0.128/25", "max_nodes": 50}

    rendered = render(tmp_path, **of_platform(name, nodes=[master], pools=[batch]))

    files = {
        payload.name: yaml.safe_load(payload.user_data.read_text())["write_files"]
        for payload in (*rendered.nodes, *rendered.pools)
    }
    manifests = {
        owner: json.loads(file["content"])
        for owner, of_owner in files.items()
        for file in of_owner
        if file["path"] == MANIFEST_PATH
    }
    assert manifests["m-1"]["lease"] == ["10.80.0.11"]
    assert "lease" not in manifests["batch"]
    assert manifests["batch"]["pool"]["addresses"] == "10.80.0.128/25"


def test_a_seed_is_attached_as_it_is(tmp_path: Path) -> None:
    node = render(tmp_path).nodes[0]

    assert CHANNELS["nocloud"].attach(SEED) == SEED
    assert {path.name for path in node.directory.iterdir()} == {
        "meta-data", "network-config", "seed.iso", "user-data"
    }  # fmt: skip


def test_vspheres_meta_data_holds_the_network_as_a_mapping(tmp_path: Path) -> None:
    node = render(tmp_path, datasource="vsphere").nodes[0]

    packed = (node.directory / "guestinfo.metadata").read_bytes()

    found = yaml.safe_load(gzip.decompress(base64.b64decode(packed)))
    assert found.pop("network") == yaml.safe_load(node.network_config.read_text())
    assert found == yaml.safe_load(node.meta_data.read_text())


def test_a_pool_has_user_data_alone() -> None:
    alone = {"user-data": SEED["user-data"]}

    assert list(CHANNELS["vsphere"].attach(alone)) == ["guestinfo.userdata"]
    assert CHANNELS["nocloud"].attach(alone) == alone


@pytest.mark.parametrize("name", [n for n in CHANNELS if CHANNELS[n].size])
def test_one_byte_over_the_limit_is_too_much(name: DatasourceName) -> None:
    size = CHANNELS[name].size
    assert size is not None
    # Base64 comes in steps of four bytes for three.
    most = size if CHANNELS[name].counted == "gzip" else size // 4 * 3

    within, over = ({f.name: f for f in measure_all(n)}[name] for n in (most, most + 1))

    assert within.is_within and not over.is_within


def test_a_payload_over_the_limit_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    context = context_of(tmp_path, **of_platform("ec2"))
    # Digests don't shrink.
    noise = "".join(hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(600))
    files = (
        NodeFile("/etc/noise", noise.encode(), "test"),
        NodeFile("/etc/zeros", b"0" * 100_000, "test"),
    )
    size_gzip = len(compress(render_userdata(context, files)))

    (problem,) = check.size_problems(context, files, size_gzip)

    assert f"lab-1 has {size_gzip:,} B (gzip), over the 16,384 B of Amazon EC2" in problem.what
    first, second = (problem.hint or "").split("largest in it, compressed: ")[1].split(", /etc/")
    share = first.removeprefix("/etc/noise ")
    assert 95 < int(share.split("(")[1].split(" ")[0]) <= 100
    assert second.startswith("zeros")
    assert "a seed disk" in (problem.hint or "") and "protect: url" in (problem.hint or "")
    assert "P-256" not in (problem.hint or "")


def test_nothing_is_written_when_a_payload_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="over the 16,384 B of Amazon EC2") as refused:
        render(tmp_path, **of_platform("ec2", pki={"algorithm": "rsa2048"}))

    assert "P-256 keys" in str(refused.value)
    assert list((tmp_path / "build" / "nodes").iterdir()) == []
    assert not (tmp_path / "state" / "lab").exists()


def test_base64_is_counted_where_the_platform_counts_it() -> None:
    sizes = {fit.name: fit.size for fit in measure_all(3000)}

    assert sizes["ec2"] == 3000
    assert sizes["openstack"] == 4000


@pytest.mark.parametrize("name", BY_NETWORK)
def test_a_platform_that_brings_no_network_config_needs_dhcp(name: str) -> None:
    static = make_cluster(datasource=name)
    nics = [{"mac": "52:54:00:00:00:01", "dhcp": True}]
    node = {"name": "lab-1", "role": "single", "address": "10.80.0.11", "nics": nics}
    tagged = make_cluster(datasource=name, network={**DHCP["network"], "vlan": 5}, nodes=[node])

    assert [f.at for f in findings(static)] == [("network", "addressing")]
    assert [f.at for f in findings(tagged)] == [("network", "vlan"), ("nodes", 0, "nics")]
    assert findings(make_cluster(datasource=name, **DHCP)) == []


@pytest.mark.parametrize(
    ("name", "fits"), [("ec2", False), ("azure", False), ("gce", False), ("openstack", True)]
)
def test_a_virtual_address_needs_a_network_in_which_it_can_move(name: str, fits: bool) -> None:
    masters = [
        {"name": f"lab-{i}", "role": "master", "address": f"10.80.0.1{i}"} for i in (1, 2, 3)
    ]
    cluster = make_cluster(datasource=name, **DHCP, nodes=masters, api={"vip": "10.80.0.10"})

    assert [f.at for f in findings(cluster)] == ([] if fits else [("api", "vip")])


@pytest.mark.parametrize("name", ["nocloud", "vsphere"])
def test_a_platform_that_brings_it_needs_nothing_else(name: str) -> None:
    assert findings(make_cluster(datasource=name)) == []


@pytest.mark.parametrize(
    ("name", "fitting"), [("ec2", "debian-13-cloud"), ("vsphere", "debian-13-vmware")]
)
def test_a_cluster_whose_image_looks_elsewhere_is_refused_at_its_line(
    name: DatasourceName, fitting: str, tmp_path: Path
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data(**of_platform(name)))
    line = path.read_text().splitlines().index(f"datasource: {name}") + 1

    with pytest.raises(ConfigError) as refused:
        load(project, "lab")

    said = str(refused.value)
    assert f"is {CHANNELS[name].sources[0]} to cloud-init; image debian-13 looks at NoCloud" in said
    assert f"{path}:{line} (datasource)" in said
    assert said.endswith(f"hint: `image: {fitting}`")
    write_cluster(project, cluster_data(**of_platform(name), image=fitting))
    assert load(project, "lab").image.name == fitting


def test_the_images_that_fit_are_those_of_the_project_and_of_the_clusters_kubernetes(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path)
    write_cluster(project, cluster_data(**of_platform("vsphere")))
    images = project.configs_dir / "images"
    text = (images / "debian-13-vmware.yaml").read_text()
    (images / "debian-13-vmware.yaml").rename(images / "mine.yaml")
    (images / "older.yaml").write_text(re.sub(r"(kubernetes: )\S+", r'\1"1.36.4"', text))
    (images / "broken.yaml").write_text("datasources: [VMware]\n")

    with pytest.raises(ConfigError, match=r"hint: `image: mine`\Z"):
        load(project, "lab")


def test_where_no_image_fits_it_is_said_what_one_would_look_at(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    write_cluster(project, cluster_data(**of_platform("cloudstack")))

    with pytest.raises(ConfigError, match=r"an image with `datasources: \[CloudStack\]`; none in"):
        load(project, "lab")


def test_a_target_that_attaches_otherwise_than_the_cluster_expects_is_refused(
    tmp_path: Path,
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data())
    aws = Delivery("cloud", SimulatedPlatform(type="aws"), project)

    with pytest.raises(ConfigError) as refused:
        plan_of(project, "lab", aws)

    said = str(refused.value)
    assert "target cloud attaches user-data as datasource ec2, the cluster has nocloud" in said
    assert f"{path}:1" in said
    assert plan_of(project, "lab", Delivery("cloud", SimulatedPlatform(), project))


def test_an_image_that_looks_there_is_taken(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    write_cluster(project, cluster_data(**of_platform("openstack"), image="debian-13-cloud"))

    assert load(project, "lab").image.name == "debian-13-cloud"
    assert render_cluster(load(project, "lab").cluster, project=project, now=NOW).nodes


@pytest.mark.parametrize("name", ["debian-13-cloud", "debian-13-vmware"])
def test_the_other_images_are_the_plain_one_with_other_datasources(
    name: str, tmp_path: Path
) -> None:
    project = make_project(tmp_path)
    plain, other = (load_image(n, project).model_dump() for n in ("debian-13", name))

    different = {key for key in plain if plain[key] != other[key]}

    assert different == {"name", "datasources"}
    assert plain["datasources"] == ("NoCloud",)


def test_a_clouds_image_asks_amazon_last(tmp_path: Path) -> None:
    # It takes what isn't Amazon's, too, if nobody before it does.
    assert load_image("debian-13-cloud", make_project(tmp_path)).datasources[-1] == "Ec2"
