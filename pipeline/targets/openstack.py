# SPDX-License-Identifier: Apache-2.0
"""How do an image and machines get into an OpenStack project (Glance, Nova, Neutron)?

What is asked of which service is in `openstack_images` and `openstack_machines`; what their errors
mean in `openstack_errors`; how the cloud is reached in `openstack_client`.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.openstack_client import Client
from pipeline.targets.openstack_errors import asking
from pipeline.targets.openstack_images import Images
from pipeline.targets.openstack_lookups import Lookups
from pipeline.targets.openstack_machines import Machines
from pipeline.targets.openstack_settings import Settings
from pipeline.targets.platform import (
    Advance,
    DiskImage,
    FormatName,
    Instance,
    InstanceSpec,
    RemoteImage,
    TransientError,
    cannot_forget,
)

__all__ = ["OpenStackPlatform", "Settings", "connect"]


class OpenStackPlatform:
    """One project of a cloud."""

    type = "openstack"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._lookups = Lookups(self._client, settings)
        self._images = Images(self._client, settings)
        self._machines = Machines(self._client, settings, self._lookups)
        self.format: FormatName = settings.format

    def problems(self) -> list[Problem]:
        """Log in, and look for what the settings name."""
        try:
            with asking("log in"):
                project = self._client.project_id
        except TransientError:
            raise
        except KubekilnError as error:
            return list(error.problems)
        if project is None:
            hint = "`project_name` in clouds.yaml, or OS_PROJECT_NAME, says which one"
            return [Problem("the credentials are for no project", hint=hint)]
        found: list[Problem] = []
        for ask in (self._ask_images, self._ask_networks, self._ask_flavor):
            try:
                ask()
            except TransientError:
                raise
            except KubekilnError as error:
                found += error.problems
        return found

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for this content among what was verified after its upload."""
        return self._images.find(image)

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Send the image; from the beginning each time, as Glance keeps no part of it."""
        return self._images.upload(image, advance)

    def delete_image(self, image: RemoteImage) -> None:
        """Remove an image."""
        self._images.delete(image)

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        """Hold user-data, cards and sizes against Nova's limit, the settings and the flavors."""
        return [p for spec in specs for p in self._machines.refusals(spec, image)]

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List servers of ours, and ports that are left without one."""
        return self._machines.list(cluster)

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Make a node's ports and server."""
        return self._machines.create(spec, image)

    def start(self, instance: Instance) -> None:
        """Power on a server."""
        self._machines.start(instance)

    def read_console(self, instance: Instance) -> str | None:
        """Read what Nova keeps of the console."""
        return self._machines.read_console(instance)

    def forget_user_data(self, instance: Instance) -> None:
        """Raise: it can't be done."""
        raise cannot_forget(instance, "Nova keeps user-data for as long as the server is there")

    def delete(self, instance: Instance) -> None:
        """Remove server, ports, and a boot volume; an empty server group too."""
        self._machines.delete(instance)

    def _ask_images(self) -> None:
        with asking("ask Glance"):
            next(self._client.image.images(limit=1), None)

    def _ask_networks(self) -> None:
        _ = self._lookups.networks

    def _ask_flavor(self) -> None:
        flavors = self._lookups.flavors
        named = self._settings.flavor
        if named and not any(named in (one.name, one.id) for one in flavors):
            names = ", ".join(sorted(one.name for one in flavors)) or "none"
            raise KubekilnError(f"no flavor {named!r}", where="flavor", hint=f"there are: {names}")


def connect(settings: Settings) -> OpenStackPlatform:
    """Make the platform of these settings."""
    return OpenStackPlatform(settings)
