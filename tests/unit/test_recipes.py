# SPDX-License-Identifier: Apache-2.0
"""Does the file target write what the recipes of the docs attach, and nothing that is too large?"""

from __future__ import annotations

import base64
import gzip
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from kubekiln.channel import CHANNELS, DatasourceName
from kubekiln.cli.main import app
from kubekiln.errors import ConfigError
from kubekiln.files import sha256_file
from kubekiln.operations import shipment
from kubekiln.paths import Project
from pipeline.targets.platform import DiskImage
from tests.support.clusters import cluster_data, write_cluster
from tests.support.node_runtime import ROOT

PAGE = (ROOT / "docs/platforms/recipes.md").read_text()
ALWAYS = {
    ".kubekiln.json", "SHA256SUMS", "meta-data", "network-config", "seed.iso", "user-data",
    "user-data.gz", "vendor-data",
}  # fmt: skip
ATTACHED: dict[DatasourceName, set[str]] = {
    "nocloud": {"seed.iso"},
    "ec2": {"user-data.gz"},
    "linode": {"user-data.gz"},
    "hetzner": {"user-data.gz.b64"},
    "cloudstack": {"user-data.gz.b64"},
    "openstack": {"user-data.gz.b64"},
    "azure": {"user-data.gz"},
    "vsphere": {"guestinfo.userdata", "guestinfo.metadata"},
    "gce": {"user-data.gz.b64"},
}
LIMITED = [name for name in ATTACHED if CHANNELS[name].size is not None]
Boot = Callable[[DatasourceName], Path]


def run(*words: str) -> None:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    """Boot a node of a cluster of that datasource; gives its directory. No image is baked."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    project, disk = Project(tmp_path), tmp_path / "disk.qcow2"
    disk.write_bytes(b"disk")
    image = DiskImage("debian-13", "d" * 64, disk, "qcow2", sha256_file(disk), 2 << 30)
    monkeypatch.setattr(shipment, "image_in", lambda *_: image)
    monkeypatch.chdir(tmp_path)

    def boot_node(name: DatasourceName) -> Path:
        path = project.configs_dir / "images/debian-13.yaml"
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**config, "datasources": [CHANNELS[name].sources[0]]}))
        write_cluster(project, cluster_data(datasource=name, network={"addressing": "dhcp"}))
        run("boot", "--target", "directory", "--cluster", "lab")
        return tmp_path / "build/delivery/nodes/lab/lab-1"

    return boot_node


def unpack(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content if path.suffix == ".gz" else base64.b64decode(content))


def test_every_datasource_is_looked_at() -> None:
    assert ATTACHED.keys() == CHANNELS.keys()
    assert len(LIMITED) == len(ATTACHED) - 1


@pytest.mark.parametrize("name", ATTACHED)
def test_what_is_attached_is_in_the_nodes_directory(name: DatasourceName, boot: Boot) -> None:
    directory = boot(name)

    assert {path.name for path in directory.iterdir()} == ALWAYS | ATTACHED[name]
    said = (directory / "SHA256SUMS").read_text()
    for file in ATTACHED[name]:
        assert f"{sha256_file(directory / file)}  {file}\n" in said
    user_data = (directory / "user-data").read_bytes()
    packed = [file for file in ATTACHED[name] if file not in ("seed.iso", "guestinfo.metadata")]
    assert [unpack(directory / file) for file in packed] == [user_data] * len(packed)


@pytest.mark.parametrize("name", LIMITED)
def test_one_byte_over_the_limit_is_refused_before_anything_is_written(
    name: DatasourceName, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limit(size: int) -> None:
        monkeypatch.setitem(CHANNELS, name, replace(CHANNELS[name], size=size))

    directory = boot(name)
    (largest,) = ATTACHED[name] - {"guestinfo.metadata"}
    size = (directory / largest).stat().st_size
    run("destroy", "--target", "directory", "--cluster", "lab")

    limit(size - 1)
    with pytest.raises(ConfigError, match=f"lab-1 has {size:,} B .*, over the {size - 1:,} B"):
        boot(name)
    assert not directory.parent.exists()

    limit(size)
    assert (boot(name) / largest).stat().st_size == size


def test_the_recipes_name_files_and_limits_as_they_are() -> None:
    row = r"^\| \[.*?\]\(#.*?\) \| `.*?` \| `(\w+)` \| `([\w.-]+)`.* \| (.*?) \| .* \|$"
    rows = re.findall(row, PAGE, re.MULTILINE)
    assert len(rows) == 7
    for name, file, limit in rows:
        assert file in ALWAYS | ATTACHED[name]
        if name != "nocloud":
            assert {file} == ATTACHED[name]
            assert limit == f"{CHANNELS[name].size:,} B"

    files = {file.rstrip("/") for file in re.findall(r"nodes/lab/NODE/([\w.-]+)", PAGE)}
    assert {"seed.iso", "user-data.gz.b64"} <= files <= ALWAYS | {"user-data.gz.b64"}
