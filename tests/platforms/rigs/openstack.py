# SPDX-License-Identifier: Apache-2.0
"""The contract on a real Keystone and Glance, with contract fakes of Nova and Neutron."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openstack
import requests
import yaml

from pipeline.targets.openstack import OpenStackPlatform, Settings, connect
from pipeline.targets.platform import FormatName, Instance, RemoteImage
from tests.platforms.rigs.jsonserver import served
from tests.platforms.rigs.keystone import USER_PASSWORD, prepare, running
from tests.platforms.rigs.neutron import Neutron
from tests.platforms.rigs.nova import Nova
from tests.platforms.rigs.rig import NOBODY, Trouble
from tests.support.disks import raw_sha256
from tests.support.faults import Door

_MAKING = ("POST", "/v2.1/servers")


class OpenStackRig:
    """One project, `lab`, of a cloud whose Nova and Neutron are fakes."""

    name = "openstack"
    format: FormatName = "qcow2"
    forgets = False
    cannot: Mapping[str, str] = {}

    @staticmethod
    def prepare() -> None:
        """Install the servers and make their databases, unless that was done: minutes, once."""
        prepare()

    def __enter__(self) -> OpenStackRig:
        self.neutron = Neutron(
            {"node": "10.80.0.0/24", "storage": "10.90.0.0/24"}, ("default", "k8s")
        )
        self._seen_images: set[str] = set()
        self.nova = Nova(self.neutron, self._has_image)
        with contextlib.ExitStack() as stack:
            serve = stack.enter_context
            compute = {
                trouble: serve(served(self.nova.fake, trouble=trouble, troubled=_MAKING))
                for trouble in (None, "cut", "server-error")
            }
            self.network_port = serve(served(self.neutron.fake))
            self.services = serve(running({
                "compute": f"http://127.0.0.1:{compute[None]}/v2.1",
                "network": f"http://127.0.0.1:{self.network_port}",
            }))  # fmt: skip
            self.door = serve(Door(self.services.image_port).opened())
            cut = serve(Door(self.services.image_port, mode="cut").opened())
            error = serve(Door(self.services.image_port, mode="error").opened())
            self._image_url = f"http://127.0.0.1:{self.services.image_port}/v2/images"
            config = self.services.image_dir.parent / "clouds.yaml"
            config.write_text(yaml.safe_dump({"clouds": {
                "lab": self._cloud(),
                "wrong-credentials": self._cloud(password="wrong-secret"),
                "full-storage": self._cloud(image=self.services.small_image_port),
                "cut": self._cloud(image=cut.port, compute=compute["cut"]),
                "server-error": self._cloud(image=error.port, compute=compute["server-error"]),
                "away": self._cloud(auth_url=f"http://{NOBODY}/v3"),
                "door": self._cloud(image=self.door.port),
            }}))  # fmt: skip
            config.chmod(0o600)
            stack.callback(os.environ.pop, "OS_CLIENT_CONFIG_FILE")
            os.environ["OS_CLIENT_CONFIG_FILE"] = str(config)
            self.sdk = openstack.connect(cloud="lab")
            stack.callback(self.sdk.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _cloud(
        self, *, password: str = USER_PASSWORD, image: int | None = None,
        compute: int | None = None, auth_url: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        auth = {
            "auth_url": auth_url or self.services.auth_url, "username": "lab", "password": password,
            "project_name": "lab", "user_domain_id": "default", "project_domain_id": "default",
        }  # fmt: skip
        cloud: dict[str, Any] = {"auth": auth, "region_name": "one"}
        if image:
            cloud["image_endpoint_override"] = f"http://127.0.0.1:{image}"
        if compute:
            cloud["compute_endpoint_override"] = f"http://127.0.0.1:{compute}/v2.1"
        return cloud

    def settings(self, **given: Any) -> Settings:
        """Settings for this cloud."""
        fields = {"type": "openstack", "cloud": "lab", "networks": [{"name": "node"}], **given}
        return Settings.model_validate(fields)

    def connect(self, trouble: Trouble | None = None, **given: Any) -> OpenStackPlatform:
        return connect(self.settings(cloud=trouble or "lab", **given))

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        path = scratch / "read-back"
        self.sdk.image.download_image(image.id, output=str(path))
        return raw_sha256(path, self.format, scratch)

    def user_data(self, instance: Instance) -> bytes:
        return base64.b64decode(self.nova.user_data[instance.id])

    def etcd_disks(self, instance: Instance) -> list[int]:
        return [
            volume["volume_size"]
            for volume in self.nova.volumes.values()
            if volume["server"] == instance.id and volume["source_type"] == "blank"
        ]

    def leftovers(self) -> list[str]:
        things = {
            "image": [f"{image.name} {image.id}" for image in self.sdk.image.images()],
            "bytes": [path.name for path in self.services.image_dir.iterdir() if path.is_file()],
            "server": list(self.nova.servers),
            "volume": list(self.nova.volumes),
            "group": list(self.nova.groups),
            "port": list(self.neutron.ports),
        }
        return [f"{kind} {one}" for kind, found in things.items() for one in found]

    def _has_image(self, token: str, image_id: str) -> bool:
        if image_id not in self._seen_images:
            url = f"{self._image_url}/{image_id}"
            answer = requests.get(url, headers={"X-Auth-Token": token}, timeout=60)
            if answer.ok and answer.json()["status"] == "active":
                self._seen_images.add(image_id)
        return image_id in self._seen_images
