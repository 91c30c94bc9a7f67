# SPDX-License-Identifier: Apache-2.0
"""Is a composed image a valid OCI layout, with the binary and nothing else in it?"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.lock import Image
from pipeline.sources.compose import CA_BUNDLE, compose_image
from tests.support.locks import program

IMAGE = Image(
    reference="registry.k8s.io/pause:3.10.2",
    entrypoint=("/pause",),
    binary="pause",
    user="65535:65535",
)


def compose(tmp_path: Path, name: str = "image.tar", **more: Any) -> Path:
    binary, target = tmp_path / "pause", tmp_path / name
    binary.write_bytes(program())
    options: dict[str, Any] = {"architecture": "amd64"} | more
    compose_image(IMAGE, binary, target, **options)
    return target


def read(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                found[member.name] = content.read()
    return found


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    algorithm, _, digest = descriptor["digest"].partition(":")
    content = files[f"blobs/{algorithm}/{digest}"]
    assert hashlib.new(algorithm, content).hexdigest() == digest
    assert len(content) == descriptor["size"]
    return content


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    files = read(path)
    entry = json.loads(files["index.json"])["manifests"][0]
    manifest = json.loads(blob(files, entry))
    config = json.loads(blob(files, manifest["config"]))
    return entry, config, blob(files, manifest["layers"][0])


def test_every_digest_and_size_is_right(tmp_path: Path) -> None:
    path = compose(tmp_path)

    _, config, layer = parts(path)

    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert json.loads(read(path)["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}


def test_the_runtime_finds_it_by_its_name(tmp_path: Path) -> None:
    entry, _, _ = parts(compose(tmp_path))

    assert entry["annotations"]["io.containerd.image.name"] == "registry.k8s.io/pause:3.10.2"
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "3.10.2"
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}


def test_it_runs_the_binary_as_nobody_in_particular(tmp_path: Path) -> None:
    _, config, layer = parts(compose(tmp_path))

    assert config["config"]["Entrypoint"] == ["/pause"]
    assert config["config"]["User"] == "65535:65535"
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert sorted(tar.getnames()) == ["etc", "etc/group", "etc/passwd", "pause", "tmp"]
        entry = tar.getmember("pause")
        assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o755, 0, 0, 0)
        content = tar.extractfile(entry)
        assert content is not None
        assert content.read() == program()


def test_roots_of_trust_are_put_where_go_looks_for_them(tmp_path: Path) -> None:
    _, _, layer = parts(compose(tmp_path, ca_certificates=b"ROOTS"))

    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        content = tar.extractfile(CA_BUNDLE)
        assert content is not None
        assert content.read() == b"ROOTS"


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, architecture: str) -> None:
    first = compose(tmp_path, "one.tar", architecture=architecture)
    second = compose(tmp_path, "two.tar", architecture=architecture)

    assert first.read_bytes() == second.read_bytes()
