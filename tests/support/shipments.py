# SPDX-License-Identifier: Apache-2.0
"""What is exported in tests: a cluster of two nodes, and what Cluster API is told of it."""

from __future__ import annotations

from pathlib import Path

import yaml

from kubekiln.files import sha256_file
from kubekiln.operations.export import Shipment
from kubekiln.operations.exportclusterapi import Site
from pipeline.targets.platform import DiskImage, InstanceSpec

KEY = "PRIVATE KEY of lab"


def make_node(base: Path, name: str, role: str, *, text: str = "") -> InstanceSpec:
    directory = base / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "user-data").write_text(f"#cloud-config\n# {KEY} {name}\n{text}")
    (directory / "meta-data").write_text(f"instance-id: {name}\n")
    (directory / "network-config").write_text("version: 2\n")
    (directory / "seed.iso").write_bytes(b"CD001" + name.encode())
    number = int(name[-1])
    return InstanceSpec(
        cluster="lab", node=name, role=role, seed_dir=directory, seed_iso=directory / "seed.iso",
        payload=f"payload-of-{name}",
        macs=(f"52:00:00:00:00:0{number}", f"52:00:00:00:01:0{number}"),
        addresses=(f"10.80.0.1{number}",), cpus=2, memory_mib=2048, disk_gib=20,
    )  # fmt: skip


def make_shipment(tmp_path: Path) -> Shipment:
    path = tmp_path / "images" / "kubekiln-debian-13.qcow2"
    path.parent.mkdir()
    path.write_bytes(b"QFI\xfb an image")
    image = DiskImage("debian-13", "ab" * 32, path, "qcow2", sha256_file(path), 8 << 30)
    base = tmp_path / "nodes"
    nodes = (make_node(base, "m1", "master"), make_node(base, "w2", "worker"))
    return Shipment("lab", image, nodes)


def make_site(tmp_path: Path) -> Site:
    kubeconfig = tmp_path / "admin.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump({"current-context": "lab"}))
    pool = tmp_path / "pool"
    pool.write_text("#cloud-config\n")
    return Site(
        "1.37.1", "10.80.0.5", 6443, frozenset({"m1"}), kubeconfig, (("burst", "burst-", pool),)
    )
