# SPDX-License-Identifier: Apache-2.0
"""Is what is written down about an image complete and right?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kubekiln.files import sha256_bytes
from kubekiln.paths import Project
from pipeline.model import load_image
from pipeline.stages.components import Library, choose, linked_libraries
from pipeline.stages.fetch import Fetched
from pipeline.stages.publish import Published, all_published
from pipeline.stages.record import manifest, read_packages, sbom, write_records
from tests.support.locks import real_lock

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
FILES = {"kubernetes/kubelet": "a" * 64, "runc/runc": "e" * 64}
RUNC = IMAGE.components["runc"]
SECCOMP_SHA256 = real_lock().release("libseccomp", "2.6.0").deb["amd64"][0].sha256
SECCOMP = Library(
    "libseccomp", "2.6.0", "runc/runc", "https://example.org/libseccomp-2.6.0.tar.gz",
    ("sha256", SECCOMP_SHA256),
)  # fmt: skip
_RUNC_BUILD = real_lock().release("runc", RUNC).gomod
assert _RUNC_BUILD is not None
BUILT_RUNC = _RUNC_BUILD.built[0].sha256["runc"]


def test_only_installed_packages_are_read_sorted() -> None:
    found = read_packages(STATUS)

    assert [(p.name, p.version, p.source) for p in found] == [
        ("base-files", "13", "base-files"),
        ("zlib1g", "1:1.3.dfsg-1", "zlib"),
    ]


def test_the_bill_of_materials_lists_every_package_and_every_program_with_its_hash(
    tmp_path: Path,
) -> None:
    bill = json.loads(sbom(IMAGE, about(tmp_path), read_packages(STATUS)))

    assert bill["bomFormat"] == "CycloneDX"
    found = {c["bom-ref"]: c for c in bill["components"]}
    assert set(found) == {
        "file:kubernetes/kubelet", "file:pause/pause", "file:runc/runc",
        "linked:runc/runc:libseccomp", "deb:base-files:amd64", "deb:zlib1g:amd64",
    }  # fmt: skip
    assert found["file:kubernetes/kubelet"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert found["file:kubernetes/kubelet"]["version"] == IMAGE.kubernetes
    assert found["deb:zlib1g:amd64"]["purl"].startswith("pkg:deb/debian/zlib1g@1:1.3.dfsg-1")


def test_the_bill_of_materials_has_what_no_package_and_no_file_of_the_node_tells(
    tmp_path: Path,
) -> None:
    bill = json.loads(sbom(IMAGE, about(tmp_path), read_packages(STATUS)))

    found = {c["bom-ref"]: c for c in bill["components"]}
    pause, linked = found["file:pause/pause"], found["linked:runc/runc:libseccomp"]
    assert pause["version"] == IMAGE.components["pause"]
    assert pause["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]
    assert linked["version"] == "2.6.0"
    (source,) = linked["externalReferences"]
    assert source["url"].endswith("/libseccomp-2.6.0.tar.gz")
    assert source["hashes"] == [{"alg": "SHA-256", "content": SECCOMP_SHA256}]
    needs = {d["ref"]: d.get("dependsOn", []) for d in bill["dependencies"]}
    assert needs["file:runc/runc"] == ["linked:runc/runc:libseccomp"]
    assert "file:pause/pause" in needs["image"]


@pytest.mark.parametrize(
    ("provider", "sha256", "libraries"),
    [("gomod", "0" * 64, ["libseccomp"]), ("mirror", BUILT_RUNC, ["libseccomp"]),
     ("upstream", "0" * 64, [])],
    ids=["built here", "built elsewhere", "upstream's own"],
)  # fmt: skip
def test_libraries_are_those_of_the_lock_in_what_we_built(
    tmp_path: Path, provider: str, sha256: str, libraries: list[str]
) -> None:
    runc = Fetched("runc", RUNC, "amd64", provider, {"runc": tmp_path / sha256})
    pause = Fetched("pause", "3.10.2", "amd64", "gomod", {"pause": tmp_path / ("1" * 64)},
                    {"registry.k8s.io/pause:3.10.2": tmp_path / ("2" * 64)})  # fmt: skip
    fetched = {"runc": runc, "pause": pause}

    linked, chosen = linked_libraries(fetched, real_lock()), choose(fetched)

    assert [library.name for library in linked] == libraries
    assert all(library.inside == "runc/runc" for library in linked)
    assert list(chosen.files) == ["runc/runc"]
    assert list(chosen.image_files) == ["pause/pause"]


def about(directory: Path, stem: str = "debian-13-0123") -> dict[str, Any]:
    disk = directory / f"{stem}.qcow2"
    disk.write_bytes(b"disk")
    root_tar = directory / "root.tar"
    root_tar.touch()
    return manifest(
        IMAGE, digest="d" * 64, qcow2=(disk, disk.name), root_tar=root_tar, files=FILES,
        image_files={"pause/pause": "c" * 64}, images={"registry.k8s.io/pause:1": "b" * 64},
        libraries=[SECCOMP], packages=read_packages(STATUS),
    )  # fmt: skip


def record(directory: Path, stem: str = "debian-13-0123") -> None:
    write_records(directory, stem, manifest=about(directory, stem), sbom="{}")


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
