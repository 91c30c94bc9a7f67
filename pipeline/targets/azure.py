# SPDX-License-Identifier: Apache-2.0
"""How do images and machines get to Azure, and away again?

The disk goes as a page blob into a storage account, becomes a managed image or a gallery's version,
and machines are made of that with their user-data as custom data. See docs/platforms/azure.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.azure_account import Account, Pace, open_account, resource_id
from pipeline.targets.azure_blob import is_whole, remove, upload_disk
from pipeline.targets.azure_errors import azure_errors
from pipeline.targets.azure_fleet import AVAILABILITY_SET, SUBNET, Fleet
from pipeline.targets.azure_images import ImageStore, image_store, refuse_architecture
from pipeline.targets.azure_machines import refusals
from pipeline.targets.azure_settings import Settings
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

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient

__all__ = ["AzurePlatform", "Settings", "connect"]

Look = tuple[str, Callable[[], object]]


class AzurePlatform:
    """One resource group of one subscription."""

    type = "azure"
    format: FormatName = "vhd"

    def __init__(self, settings: Settings, pace: Pace | None = None) -> None:
        self._settings = settings
        self._pace = pace or Pace()

    def problems(self) -> list[Problem]:
        """Try the identity, then all that must be there and that we must be allowed to see."""
        refused = _refused("log in to Azure", lambda: self._account.token())
        if refused:
            return refused
        return [p for doing, look in self._looks() for p in _refused(doing, look)]

    def _looks(self) -> Iterator[Look]:
        settings, compute, network = self._settings, self._account.compute, self._account.network
        group = settings.resource_group
        yield f"resource group {group}", lambda: next(iter(compute.virtual_machines.list(group)), 0)
        yield f"container {settings.container}", self._account.container.exists
        at = self._at(SUBNET, settings.subnet)
        yield f"subnet {settings.subnet}", partial(network.subnets.get, *at)
        if settings.gallery:
            name = settings.gallery.name
            yield f"gallery {name}", partial(compute.galleries.get, group, name)
        if settings.availability_set:
            at = self._at(AVAILABILITY_SET, settings.availability_set)
            yield f"availability set {at[1]}", partial(compute.availability_sets.get, *at)

    def _at(self, kind: str, name: str) -> list[str]:
        """Give a resource's group, and its names: what the libraries' functions take."""
        group = self._settings.resource_group
        parts = resource_id(self._account.subscription, group, kind, name).split("/")
        return [parts[4], *parts[8::2]]

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for the image that bears the file's SHA-256 as a tag and is made."""
        with azure_errors(f"look for image {image.remote_name}"):
            return self._images.find(image)

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Fill a page blob, going on where an earlier attempt ended; then make the image of it."""
        refuse_architecture(self._settings, image)
        blob, made = self._blob(image.remote_name), self.find_image(image)
        if made is not None:
            advance(image.size)  # by an attempt whose answer got lost
        else:
            self._send(blob, image, advance)
            with azure_errors(f"make image {image.remote_name}"):
                made = self._images.make(image, blob.url)
        if not self._settings.keep_blob:
            with azure_errors(f"remove the blob of {image.remote_name}"):
                remove(blob)
        return made

    def _send(self, blob: BlobClient, image: DiskImage, advance: Advance) -> None:
        try:
            with azure_errors(f"upload {image.path.name}"):
                self._fill(blob, image, advance)
        except TransientError:
            raise
        except KubekilnError:
            # Nothing that could be gone on with, so nothing that is paid for.
            with suppress(KubekilnError), azure_errors("remove what was uploaded"):
                remove(blob)
            raise

    def _fill(self, blob: BlobClient, image: DiskImage, advance: Advance) -> None:
        from azure.core.exceptions import ResourceExistsError

        with suppress(ResourceExistsError):
            self._account.container.create_container()
        if is_whole(blob, image):
            advance(image.size)
            return
        streams, verify = self._settings.streams, self._settings.verify
        upload_disk(blob, image, advance, streams=streams, verify=verify)

    def delete_image(self, image: RemoteImage) -> None:
        """Remove the image, and the blob if it is still there."""
        with azure_errors(f"remove image {image.name}"):
            self._images.delete(image)
            remove(self._blob(image.name))

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        """Hold user-data, cards, sizes and disks against what a machine of Azure's can have."""
        return [p for spec in specs for p in refusals(spec, image, self._settings)]

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List machines, and parts of machines, that bear our tags."""
        with azure_errors(f"list the machines of {self._settings.resource_group}"):
            return self._fleet.list(cluster)

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Make the card, then the machine; what is there already of this very payload is kept."""
        with azure_errors(f"make {spec.name}"):
            return self._fleet.create(spec, image)

    def start(self, instance: Instance) -> None:
        """Power it on."""
        with azure_errors(f"start {_name(instance)}"):
            self._fleet.start(instance)

    def read_console(self, instance: Instance) -> str | None:
        """Fetch the log of the serial console, which boot diagnostics keep."""
        if _MACHINE not in instance.id.lower():
            return None  # what was left of one
        with azure_errors(f"read the console of {_name(instance)}"):
            return self._fleet.console(_name(instance))

    def forget_user_data(self, instance: Instance) -> None:
        """Raise: it can't be done."""
        raise cannot_forget(instance, "Azure keeps custom data for as long as the machine is there")

    def delete(self, instance: Instance) -> None:
        """Remove the machine with its cards and its disk."""
        with azure_errors(f"remove {_name(instance)}"):
            self._fleet.delete(instance)

    @cached_property
    def _account(self) -> Account:
        return open_account(self._settings, self._pace)

    @cached_property
    def _images(self) -> ImageStore:
        return image_store(self._settings, self._account)

    @cached_property
    def _fleet(self) -> Fleet:
        return Fleet(self._settings, self._account, self._pace)

    def _blob(self, name: str) -> BlobClient:
        return self._account.container.get_blob_client(f"{name}.vhd")


_MACHINE = "/virtualmachines/"
"""In the id of what isn't only a card or a disk, in lower case."""


def connect(settings: Settings) -> AzurePlatform:
    """Make the platform of these settings."""
    return AzurePlatform(settings)


def _name(instance: Instance) -> str:
    return f"{instance.cluster}-{instance.node}"


def _refused(doing: str, look: Callable[[], object]) -> list[Problem]:
    """Say why something can't be looked at; what may pass is raised."""
    try:
        with azure_errors(doing):
            look()
    except TransientError:
        raise
    except KubekilnError as error:
        return list(error.problems)
    return []
