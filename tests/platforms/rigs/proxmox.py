# SPDX-License-Identifier: Apache-2.0
"""The contract on a fake of Proxmox VE's API, strict about parameters; no Proxmox runs here."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pycdlib

from pipeline.targets.platform import FormatName, Instance, RemoteImage
from pipeline.targets.proxmox import ProxmoxPlatform, Settings
from tests.platforms.fakes.pve import Pve, Storage
from tests.platforms.fakes.pve_server import TOKEN, PveServer
from tests.platforms.rigs.rig import NOBODY, Trouble
from tests.support.disks import raw_sha256
from tests.support.servers import serving
from tests.support.tls import make_certificate


class ProxmoxRig:
    """Two hosts, a shared storage and local ones."""

    name = "proxmox"
    format: FormatName = "qcow2"
    forgets = True
    cannot: Mapping[str, str] = {
        "user-data": "a seed can be of any size",
        "console": "Proxmox keeps nothing of what a serial port said",
    }

    def __enter__(self) -> ProxmoxRig:
        with contextlib.ExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="kubekiln-proxmox-"))
            stack.callback(shutil.rmtree, directory)
            self._certificate = make_certificate(directory)
            stack.enter_context(patch.dict(os.environ, {"PROXMOX_VE_API_TOKEN": TOKEN}))
            self.pve = Pve(storages={
                "shared": Storage({"images", "import", "iso"}, shared=True),
                "local": Storage({"import", "iso"}),
                "local-lvm": Storage({"images"}),
                "tiny": Storage({"import"}, room=1 << 20),
            })  # fmt: skip
            self._ports: dict[str, int] = {}
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settings(self, trouble: str = "", **more: Any) -> Settings:
        """Write what a user's file would say."""
        server = NOBODY if trouble == "away" else f"127.0.0.1:{self._port(trouble)}"
        return Settings.model_validate({
            "type": "proxmox", "endpoint": f"https://{server}",
            "ca_file": self._certificate.cert, "nodes": ["pve1"],
            "image_storage": "tiny" if trouble == "full-storage" else "local",
            "disk_storage": "local-lvm", **more,
        })  # fmt: skip

    def connect(self, trouble: Trouble | None = None, **more: Any) -> ProxmoxPlatform:
        # Read when the first thing is asked for; every test begins with a good one.
        secret = "wrong-secret" if trouble == "wrong-credentials" else TOKEN.partition("=")[2]
        os.environ["PROXMOX_VE_API_TOKEN"] = f"{TOKEN.partition('=')[0]}={secret}"
        return ProxmoxPlatform(self.settings(trouble or "", **more))

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        file = scratch / "back.qcow2"
        file.write_bytes(self.pve.storages[image.id.partition(":")[0]].files[image.id])
        return raw_sha256(file, "qcow2", scratch)

    def user_data(self, instance: Instance) -> bytes:
        volume = self.pve.machines[int(instance.id)].config["scsi1"].partition(",")[0]
        if volume == "none":
            return b""
        data = self.pve.storages[volume.partition(":")[0]].files[volume]
        cd, out = pycdlib.PyCdlib(), io.BytesIO()
        cd.open_fp(io.BytesIO(data))
        try:
            cd.get_file_from_iso_fp(out, rr_path="/user-data")
        finally:
            cd.close()
        return out.getvalue()

    def etcd_disks(self, instance: Instance) -> list[int]:
        config = self.pve.machines[int(instance.id)].config
        drives = [config[key] for key in sorted(config) if re.fullmatch(r"scsi\d", key)]
        sizes = [re.search(r"size=(\d+)", drive) for drive in drives[1:]]
        return [int(size[1]) >> 30 for size in sizes if size]

    def leftovers(self) -> list[str]:
        volumes = [v for s in self.pve.storages.values() for v in (*s.files, *s.disks)]
        return sorted([*volumes, *(f"machine {vmid}" for vmid in self.pve.machines)])

    def _port(self, trouble: str) -> int:
        mode = trouble if trouble in ("cut", "server-error") else ""
        if mode not in self._ports:
            server = PveServer(self.pve, self._certificate, mode)
            self._ports[mode] = self._stack.enter_context(serving(server))
        return self._ports[mode]
