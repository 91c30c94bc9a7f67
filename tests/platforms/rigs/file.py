# SPDX-License-Identifier: Apache-2.0
"""The contract on a directory."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.targets.file import FilePlatform, Settings
from pipeline.targets.platform import FormatName, Instance, RemoteImage
from tests.platforms.rigs.rig import Trouble
from tests.support.disks import raw_sha256

_ANY_MACHINE = "which machine takes a seed isn't known"


class FileRig:
    """A directory of its own, on the host's own disk."""

    name = "file"
    format: FormatName = "qcow2"
    forgets = True
    cannot: Mapping[str, str] = {
        "wrong-credentials": "a directory asks for none",
        "full-storage": "its copy goes through kubekiln.files, where a full disk is tested",
        "cut": "there is no connection",
        "away": "there is no connection",
        "server-error": "there is no server",
        "cards": _ANY_MACHINE,
        "disk": _ANY_MACHINE,
        "user-data": "files can be of any size",
        "console": "who boots from it isn't known",
    }

    def __enter__(self) -> FileRig:
        self._directory = Path(tempfile.mkdtemp(prefix="kubekiln-file-"))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._directory)

    def connect(self, trouble: Trouble | None = None) -> FilePlatform:
        assert trouble is None
        return FilePlatform(Settings(type="file", directory=self._directory))

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        return raw_sha256(Path(image.id), "qcow2", scratch)

    def user_data(self, instance: Instance) -> bytes:
        path = Path(instance.id) / "user-data.gz"
        return path.read_bytes() if path.exists() else b""

    def etcd_disks(self, instance: Instance) -> list[int]:
        record = json.loads((Path(instance.id) / ".kubekiln.json").read_text())
        return [record["etcd_disk_gib"]] if "etcd_disk_gib" in record else []

    def leftovers(self) -> list[str]:
        return [str(path) for path in self._directory.rglob("*") if path.is_file()]
