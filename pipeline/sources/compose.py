# SPDX-License-Identifier: Apache-2.0
"""How does a container image come to be of one locked binary, the same bytes every time?

The result is an OCI image layout in a tar, with the name as an annotation: `ctr images import`,
`podman load` and `skopeo copy oci-archive:` take it. One layer, no shell, no package manager. The
layer isn't compressed: zlib's output differs by version, and the disk image is compressed anyway.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.lock import Architecture, Image

_ACCOUNTS = (
    "root:x:0:0:root:/root:/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
    "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
)
_GROUPS = "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n"
_EPOCH = "1970-01-01T00:00:00Z"
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def compose_image(
    image: Image,
    binary: Path,
    target: Path,
    *,
    architecture: Architecture,
    ca_certificates: bytes | None = None,
) -> None:
    """Write the image of `binary` to `target`."""
    layer = _layer(image, binary, ca_certificates)
    config = _json(_config(image, architecture, layer))
    manifest = _json(_manifest(config, layer))
    index = _json(_index(image, manifest, architecture))
    files = {
        "index.json": index,
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        **{f"blobs/sha256/{_hex(blob)}": blob for blob in (config, manifest, layer)},
    }
    with target.open("wb") as out, tarfile.open(fileobj=out, mode="w") as tar:
        for directory in ("blobs", "blobs/sha256"):
            tar.addfile(_entry(directory, kind=tarfile.DIRTYPE, mode=0o755))
        for name in sorted(files):
            _add(tar, name, files[name], mode=0o644)


def _layer(image: Image, binary: Path, ca_certificates: bytes | None) -> bytes:
    files = {
        "etc/passwd": (_ACCOUNTS.encode(), 0o644),
        "etc/group": (_GROUPS.encode(), 0o644),
        image.entrypoint[0].lstrip("/"): (binary.read_bytes(), 0o755),
    }
    if ca_certificates is not None:
        files[CA_BUNDLE] = (ca_certificates, 0o644)
    parents = {str(p) for name in files for p in Path(name).parents if str(p) != "."}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for directory in sorted(parents):
            tar.addfile(_entry(directory, kind=tarfile.DIRTYPE, mode=0o755))
        tar.addfile(_entry("tmp", kind=tarfile.DIRTYPE, mode=0o1777))
        for name in sorted(files):
            content, mode = files[name]
            _add(tar, name, content, mode=mode)
    return out.getvalue()


def _config(image: Image, architecture: Architecture, layer: bytes) -> Mapping[str, Any]:
    return {
        "created": _EPOCH,
        "author": "kubekiln",
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": image.user,
            "Entrypoint": list(image.entrypoint),
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created": _EPOCH, "created_by": "kubekiln compose"}],
    }


def _manifest(config: bytes, layer: bytes) -> Mapping[str, Any]:
    kind = "application/vnd.oci.image"
    return {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": _descriptor(f"{kind}.config.v1+json", config),
        "layers": [_descriptor(f"{kind}.layer.v1.tar", layer)],
    }


def _index(image: Image, manifest: bytes, architecture: Architecture) -> Mapping[str, Any]:
    kind = "application/vnd.oci.image"
    entry = {
        **_descriptor(f"{kind}.manifest.v1+json", manifest),
        "platform": {"architecture": architecture, "os": "linux"},
        # containerd takes the name from the first, other tools from the second.
        "annotations": {
            "io.containerd.image.name": image.reference,
            "org.opencontainers.image.ref.name": image.reference.rpartition(":")[2],
        },
    }
    return {"schemaVersion": 2, "mediaType": f"{kind}.index.v1+json", "manifests": [entry]}


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(content: bytes) -> str:
    return f"sha256:{_hex(content)}"


def _entry(name: str, *, kind: bytes = tarfile.REGTYPE, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, 0
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int) -> None:
    entry = _entry(name, mode=mode)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
