# SPDX-License-Identifier: Apache-2.0
"""The contract on Azure: real blob storage code (Azurite), and a contract fake of compute.

Tokens come from a managed identity's endpoint through DefaultAzureCredential, as they do in Azure.
What the fake Resource Manager doesn't do, and no test here says: boot.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from pipeline.targets.azure import AzurePlatform, Settings
from pipeline.targets.azure_account import Pace
from pipeline.targets.platform import FormatName, Instance, RemoteImage
from tests.platforms.fakes.arm import SUBSCRIPTION, Arm
from tests.platforms.fakes.arm_rules import Resource
from tests.platforms.fakes.arm_server import GOOD_HEADER, ArmServer, identity_endpoint
from tests.platforms.rigs.rig import NOBODY, Trouble
from tests.support.azurite import ACCOUNT, KEY, azurite
from tests.support.faults import Door
from tests.support.node import npm_server
from tests.support.servers import serving
from tests.support.tls import make_certificate

GROUP, LOCATION, CONTAINER = "kubekiln", "westeurope", "kubekiln"
_BASE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers"
_FOOTER = 512
_CONSOLES = "bootdiagnostics"
_DOOR_MODES = {"cut": "cut", "server-error": "error"}
# Nothing of the host's own Azure is seen.
_HIDDEN = (
    "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE",
)  # fmt: skip


class AzureRig:
    """Azurite, a fake Resource Manager, and doors to both that cause trouble."""

    name = "azure"
    format: FormatName = "vhd"
    forgets = False
    cannot: Mapping[str, str] = {}

    @staticmethod
    def prepare() -> None:
        npm_server("azurite")

    def __enter__(self) -> AzureRig:
        with contextlib.ExitStack() as stack:
            self._directory = Path(tempfile.mkdtemp(prefix="kubekiln-azure-"))
            stack.callback(shutil.rmtree, self._directory)
            self._certificate = make_certificate(self._directory)
            self._stack = stack
            stack.enter_context(patch.dict(os.environ, self._environment(stack)))
            for name in _HIDDEN:
                os.environ.pop(name, None)
            self.storage = stack.enter_context(
                azurite(self._directory / "blobs", self._certificate)
            )
            self.arm = Arm(self._read_disk, self._write_console, groups={GROUP})
            self.arm.resources.update(_what_is_there())
            self._arm_ports: dict[str, int] = {}
            self._blob_urls: dict[str, str] = {"": self.storage.url()}
            self._stack = stack.pop_all()
        return self

    def _environment(self, stack: contextlib.ExitStack) -> dict[str, str]:
        return {
            "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
            "IDENTITY_ENDPOINT": stack.enter_context(identity_endpoint()),
            "IDENTITY_HEADER": GOOD_HEADER,
            "REQUESTS_CA_BUNDLE": str(self._certificate.cert),
        }

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settings(self, trouble: str = "", **more: Any) -> Settings:
        """Write what a user's file would say."""
        away = trouble == "away"
        server = NOBODY if away else f"127.0.0.1:{self._arm_port(trouble)}"
        return Settings.model_validate({
            "type": "azure", "resource_group": GROUP, "location": LOCATION,
            "storage_account": ACCOUNT, "container": CONTAINER, "subnet": "net/nodes",
            "management_url": f"https://{server}",
            "blob_url": self._blob_url("" if away else trouble), **more,
        })  # fmt: skip

    def connect(self, trouble: Trouble | None = None, **more: Any) -> AzurePlatform:
        refused = trouble == "wrong-credentials"
        # Read when the first token is asked for; every test begins with a good one.
        os.environ["IDENTITY_HEADER"] = "wrong-secret" if refused else GOOD_HEADER
        pace = Pace(retries=1, retry_s=0, poll_s=0.01)
        return AzurePlatform(self.settings(trouble or "", **more), pace)

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        del scratch
        return self.arm.disk_sha256[image.id]

    def user_data(self, instance: Instance) -> bytes:
        return self.arm.custom_data[instance.id]

    def etcd_disks(self, instance: Instance) -> list[int]:
        profile = self.arm.resources[instance.id.lower()]["properties"]["storageProfile"]
        return [disk["diskSizeGB"] for disk in profile.get("dataDisks", ())]

    def leftovers(self) -> list[str]:
        base = set(_what_is_there())
        return sorted(set(self.arm.resources) - base) + self.blobs()

    def blobs(self) -> list[str]:
        """Name the blobs in the target's container."""
        with self.storage.service() as service:
            if not service.get_container_client(CONTAINER).exists():
                return []
            return sorted(service.get_container_client(CONTAINER).list_blob_names())

    def _arm_port(self, trouble: str) -> int:
        mode = trouble if trouble in ("cut", "server-error") else ""
        if mode not in self._arm_ports:
            server = ArmServer(self.arm, self._certificate, mode)
            self._arm_ports[mode] = self._stack.enter_context(serving(server))
        return self._arm_ports[mode]

    def _blob_url(self, trouble: str) -> str:
        if trouble == "wrong-credentials":
            return self._blob_urls[""]
        if trouble not in self._blob_urls:
            self._blob_urls[trouble] = self._troubled(trouble)
        return self._blob_urls[trouble]

    def _troubled(self, trouble: str) -> str:
        if trouble == "full-storage":
            words = ("--inMemoryPersistence", "--extentMemoryLimit", "1")
            where = self._directory / "full"
            return self._stack.enter_context(azurite(where, self._certificate, *words)).url()
        tls = self._certificate.server_context()
        door = Door(self.storage.port, mode=_DOOR_MODES[trouble], tls=tls)
        return self.storage.url(self._stack.enter_context(door.opened()).port)

    def _read_disk(self, url: str) -> str:
        container, _, name = urlsplit(url).path.removeprefix(f"/{ACCOUNT}/").partition("/")
        with self.storage.service() as service:
            blob = service.get_blob_client(container, name)
            if not blob.exists() or blob.get_blob_properties().blob_type != "PageBlob":
                raise KeyError(url)
            data = blob.download_blob().readall()
        if data[-_FOOTER:][:8] != b"conectix" or len(data) % (1 << 20) != _FOOTER:
            raise KeyError("not a fixed VHD of whole MiB")
        return hashlib.sha256(data[:-_FOOTER]).hexdigest()

    def _write_console(self, machine: str) -> str:
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        name = f"{machine}.serialconsole.log"
        with self.storage.service() as service:
            container = service.get_container_client(_CONSOLES)
            if not container.exists():
                container.create_container()
            container.upload_blob(name, b"KUBEKILN phase=userdata t=1.0\n", overwrite=True)
            url = container.get_blob_client(name).url
        signature = generate_blob_sas(
            ACCOUNT, _CONSOLES, name, account_key=KEY,
            permission=BlobSasPermissions(read=True), expiry=datetime.now(UTC) + timedelta(hours=1),
        )  # fmt: skip
        return f"{url}?{signature}"


def _what_is_there() -> Mapping[str, Resource]:
    made = [
        ("Microsoft.Network/virtualNetworks/net/subnets/nodes",
         {"addressPrefixes": ["10.80.0.0/24", "fd00:80::/64"]}),
        ("Microsoft.Compute/galleries/images", {}),
        ("Microsoft.Compute/availabilitySets/nodes", {}),
    ]  # fmt: skip
    return {
        f"{_BASE}/{path}".lower(): {
            "id": f"{_BASE}/{path}", "name": path.rsplit("/", 1)[1], "location": LOCATION,
            "properties": {**properties, "provisioningState": "Succeeded"},
        }
        for path, properties in made
    }  # fmt: skip
