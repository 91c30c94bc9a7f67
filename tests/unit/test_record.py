# SPDX-License-Identifier: Apache-2.0
"""Is what is written down about an image complete and right?"""

from __future__ import annotations

import json
from pathlib import Path

from kubekiln.files import sha256_bytes
from kubekiln.paths import Project
from pipeline.model import load_image
from pipeline.stages.publish import Published, all_published
from pipeline.stages.record import manifest, read_packages, sbom, write_records

IMAGE = load_image("debian-13", Project(Path(__file__).resolve().parents[2]))
STATUS = """\
Package: zlib1g
Status: install ok installed
Architecture: amd64
Source: zlib (1:1.3)
Version: 1:1.3.dfsg-1
Maintainer: A <a@example.org>
Description: a library
 with: a colon in the long text

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: base-files
Status: install ok installed
Architecture: amd64
Version: 13
"""
FILES = {"kubernetes/kubelet": "a" * 64}


def test_only_installed_packages_are_read_sorted() -> None:
    found = read_packages(STATUS)

    assert [(p.name, p.version, p.source) for p in found] == [
        ("base-files", "13", "base-files"),
        ("zlib1g", "1:1.3.dfsg-1", "zlib"),
    ]


def test_the_bill_of_materials_lists_every_package_and_every_program_with_its_hash() -> None:
    bill = json.loads(sbom(IMAGE, digest="d" * 64, files=FILES, packages=read_packages(STATUS)))

    assert bill["bomFormat"] == "CycloneDX"
    found = {c["bom-ref"]: c for c in bill["components"]}
    assert set(found) == {"file:kubernetes/kubelet", "deb:base-files:amd64", "deb:zlib1g:amd64"}
    assert found["file:kubernetes/kubelet"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert found["file:kubernetes/kubelet"]["version"] == IMAGE.kubernetes
    assert found["deb:zlib1g:amd64"]["purl"].startswith("pkg:deb/debian/zlib1g@1:1.3.dfsg-1")


def record(directory: Path, stem: str = "debian-13-0123") -> Path:
    disk = directory / f"{stem}.qcow2"
    disk.write_bytes(b"disk")
    root_tar = directory / "root.tar"
    root_tar.touch()
    about = manifest(
        IMAGE, digest="d" * 64, qcow2=(disk, disk.name), root_tar=root_tar, files=FILES,
        images={"registry.k8s.io/pause:1": "b" * 64}, packages=read_packages(STATUS),
    )  # fmt: skip
    return write_records(directory, stem, manifest=about, sbom="{}")


def test_checksums_are_those_of_the_files_beside_them(tmp_path: Path) -> None:
    record(tmp_path)

    lines = (tmp_path / "debian-13-0123.SHA256SUMS").read_text().splitlines()

    assert f"{sha256_bytes(b'disk')}  debian-13-0123.qcow2" in lines
    assert f"{sha256_bytes(b'{}')}  debian-13-0123.cdx.json" in lines


def test_an_image_counts_as_there_only_while_it_is_whole(tmp_path: Path) -> None:
    record(tmp_path)
    image = Published(tmp_path, "debian-13-0123")
    assert image.read() is not None
    assert [path.name for path, _ in all_published(tmp_path)] == ["debian-13-0123.json"]

    image.qcow2.write_bytes(b"ha")

    assert image.read() is None
    assert all_published(tmp_path) == []


def test_an_image_stays_what_it_is_when_the_cache_has_lost_its_root(tmp_path: Path) -> None:
    record(tmp_path)

    (tmp_path / "root.tar").unlink()

    assert Published(tmp_path, "debian-13-0123").read() is not None
    assert len(all_published(tmp_path)) == 1
