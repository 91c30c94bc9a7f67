# SPDX-License-Identifier: Apache-2.0
"""What is written down about a finished image? (Manifest, CycloneDX SBOM, SHA256SUMS.)"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubekiln.files import sha256_file, write_atomic
from pipeline.model import Image
from pipeline.plan import SOURCE_DATE_EPOCH
from pipeline.stages.components import Library

if TYPE_CHECKING:
    from cyclonedx.model.component import Component


@dataclass(frozen=True)
class Package:
    """An installed package of the distribution."""

    name: str
    version: str
    architecture: str
    source: str
    maintainer: str


def read_packages(dpkg_status: str) -> list[Package]:
    """Read dpkg's status file; only what is installed."""
    found = []
    for stanza in dpkg_status.split("\n\n"):
        fields = dict(_fields(stanza))
        if fields.get("Status") == "install ok installed":
            source = fields.get("Source", fields["Package"]).split(" ")[0]
            found.append(
                Package(fields["Package"], fields["Version"], fields["Architecture"], source,
                        fields.get("Maintainer", ""))
            )  # fmt: skip
    return sorted(found, key=lambda p: (p.name, p.architecture))


def _fields(stanza: str) -> Iterator[tuple[str, str]]:
    for line in stanza.splitlines():
        if line[:1] not in (" ", "\t") and ": " in line:
            key, _, value = line.partition(": ")
            yield key, value


def manifest(
    image: Image,
    *,
    digest: str,
    qcow2: tuple[Path, str],
    root_tar: Path,
    files: Mapping[str, str],
    image_files: Mapping[str, str],
    images: Mapping[str, str],
    libraries: Sequence[Library],
    packages: list[Package],
) -> dict[str, Any]:
    """Lay down what the image is; `files` are `component/name` → sha256, `qcow2` file and name."""
    path, name = qcow2
    return {
        "format": 1,
        "name": image.name,
        "digest": digest,
        "architecture": image.architecture,
        "distribution": {"name": image.distribution, "release": image.release},
        "apt": [url for url in (image.apt.mirror, image.apt.security_mirror) if url],
        "datasources": list(image.datasources),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "qcow2": {
            "path": name,
            "size": path.stat().st_size,
            "sha256": sha256_file(path),
            "virtual_size": image.disk.size_mib << 20,
        },
        "root_tar": str(root_tar),
        "components": dict(sorted(image.components.items())),
        "files": dict(sorted(files.items())),
        "image_files": dict(sorted(image_files.items())),
        "container_images": dict(sorted(images.items())),
        "libraries": [asdict(library) for library in libraries],
        "packages": {p.name: p.version for p in packages},
    }


def sbom(image: Image, about: Mapping[str, Any], packages: Sequence[Package]) -> str:
    """Render a CycloneDX bill of materials: packages, our programs with their hashes, and the
    libraries in those; `about` is the manifest."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot5

    bom = Bom()
    bom.metadata.timestamp = datetime.fromtimestamp(SOURCE_DATE_EPOCH, UTC)
    bom.metadata.component = Component(
        name=image.name, version=about["digest"], type=ComponentType.OPERATING_SYSTEM,
        bom_ref="image",
    )  # fmt: skip
    files = {**about["files"], **about["image_files"]}
    programs = {name: _program(image, name, sha256) for name, sha256 in sorted(files.items())}
    bom.components.update(programs.values())
    bom.components.update(_package(image, package) for package in packages)
    bom.register_dependency(bom.metadata.component, bom.components)
    for library in about["libraries"]:
        inner = _library(library)
        bom.components.add(inner)
        bom.register_dependency(programs[library["inside"]], [inner])
    return JsonV1Dot5(bom).output_as_string(indent=1)


def _program(image: Image, name: str, sha256: str) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    component, _, file = name.partition("/")
    version = image.components.get(component)
    return Component(
        name=file,
        group=component,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=f"file:{name}",
        purl=PackageURL("generic", component, file, version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
    )


def _package(image: Image, package: Package) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    qualifiers = {"arch": package.architecture, "distro": image.release}
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"deb:{package.name}:{package.architecture}",
        purl=PackageURL("deb", "debian", package.name, package.version, qualifiers),
    )


def _library(library: Mapping[str, Any]) -> Component:
    """Describe a linked library by its source: its own bytes are nowhere."""
    from cyclonedx.model import (
        ExternalReference,
        ExternalReferenceType,
        HashAlgorithm,
        HashType,
        XsUri,
    )
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    name, version = library["name"], library["version"]
    algorithm, digest = library["checksum"]
    algorithms = {"sha256": HashAlgorithm.SHA_256, "sha512": HashAlgorithm.SHA_512}
    source = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(library["source"]),
        hashes=[HashType(alg=algorithms[algorithm], content=digest)],
    )
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"linked:{library['inside']}:{name}",
        purl=PackageURL("generic", None, name, version, {"checksum": f"{algorithm}:{digest}"}),
        external_references=[source],
    )


def write_records(
    directory: Path, stem: str, *, manifest: Mapping[str, Any], sbom: str
) -> tuple[Path, ...]:
    """Write everything beside the qcow2; the manifest last, for it says that the image is whole."""
    bill = directory / f"{stem}.cdx.json"
    write_atomic(bill, sbom)
    sums = {f"{stem}.qcow2": manifest["qcow2"]["sha256"], bill.name: sha256_file(bill)}
    lines = [f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())]
    checksums, about = directory / f"{stem}.SHA256SUMS", directory / f"{stem}.json"
    write_atomic(checksums, "".join(lines))
    write_atomic(about, json.dumps(manifest, indent=1) + "\n")
    return bill, checksums, about
