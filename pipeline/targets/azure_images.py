# SPDX-License-Identifier: Apache-2.0
"""How does an uploaded disk become what machines are made of: a managed image, or a gallery's?

Both bear our tags from the beginning, and count only once Azure says that they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from kubekiln.errors import KubekilnError
from kubekiln.progress import say
from pipeline.targets.azure_account import Account, resource_id
from pipeline.targets.azure_settings import Gallery, Settings
from pipeline.targets.platform import TAG_PREFIX, DiskImage, RemoteImage

if TYPE_CHECKING:
    from azure.mgmt.compute import models

_IMAGE_TAG = f"{TAG_PREFIX}-image"
_SHA_TAG = f"{TAG_PREFIX}-sha256"
_CONTROLLERS = {"name": "DiskControllerTypes", "value": "SCSI, NVMe"}
_ARCHITECTURES = {"amd64": "x64", "arm64": "Arm64"}


class ImageStore(Protocol):
    """Where images are kept."""

    def find(self, image: DiskImage) -> RemoteImage | None:
        """Look for the image of this very file."""

    def make(self, image: DiskImage, url: str) -> RemoteImage:
        """Make it of a page blob; what is there under its name of another file is replaced."""

    def delete(self, image: RemoteImage) -> None:
        """Remove it; fine if it is gone."""


def image_store(settings: Settings, account: Account) -> ImageStore:
    """Give the kind of store that the settings ask for."""
    if settings.gallery:
        return GalleryVersions(settings, account, settings.gallery)
    return ManagedImages(settings, account)


class ManagedImages:
    """An image of a resource group, for machines of the same region."""

    def __init__(self, settings: Settings, account: Account) -> None:
        self._settings = settings
        self._images = account.compute.images

    def find(self, image: DiskImage) -> RemoteImage | None:
        found = self._get(image)
        if found is None or not _is_whole(found, image):
            return None
        _refuse_generation(found, self._settings, "remove the image")
        return RemoteImage(str(found.id), image.remote_name)

    def make(self, image: DiskImage, url: str) -> RemoteImage:
        from azure.mgmt.compute.models import Image

        group, name = self._settings.resource_group, image.remote_name
        there = self._get(image)
        if there is not None:
            _refuse_foreign(there, name)
            self._images.begin_delete(group, name).result()
        body = managed_image_body(self._settings, image, url)
        made = self._images.begin_create_or_update(group, name, Image(body)).result()
        return RemoteImage(str(made.id), name)

    def delete(self, image: RemoteImage) -> None:
        self._images.begin_delete(self._settings.resource_group, image.name).result()

    def _get(self, image: DiskImage) -> models.Image | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._images.get(self._settings.resource_group, image.remote_name)
        except ResourceNotFoundError:
            return None


class GalleryVersions:
    """A version of an image definition in a gallery, for many machines, in several regions."""

    def __init__(self, settings: Settings, account: Account, gallery: Gallery) -> None:
        self._settings = settings
        self._account = account
        self._gallery = gallery
        self._versions = account.compute.gallery_image_versions
        self._definitions = account.compute.gallery_images

    def find(self, image: DiskImage) -> RemoteImage | None:
        found = self._get(image)
        if found is None or not _is_whole(found, image):
            return None
        self._refuse_definition(image)
        if lacking := regions_lacking(found.as_dict(), self._settings, self._gallery):
            say(
                f"{image.remote_name} isn't in the regions, or as often, as the target says "
                f"({', '.join(lacking)}): `az sig image-version update`, or remove {found.id}"
            )
        return RemoteImage(str(found.id), image.remote_name)

    def make(self, image: DiskImage, url: str) -> RemoteImage:
        from azure.mgmt.compute.models import GalleryImageVersion

        place = (*self._place(image), version_of(image.digest))
        self._make_definition(image)
        self._refuse_definition(image)
        there = self._get(image)
        if there is not None:
            _refuse_foreign(there, f"version {version_of(image.digest)}")
            self._versions.begin_delete(*place).result()
        body = version_body(self._settings, self._gallery, image, url, self._storage_id())
        made = self._versions.begin_create_or_update(*place, GalleryImageVersion(body)).result()
        return RemoteImage(str(made.id), image.remote_name)

    def delete(self, image: RemoteImage) -> None:
        from azure.core.exceptions import ResourceNotFoundError

        # …/galleries/G/images/DEFINITION/versions/VERSION
        *_, definition, _kind, version = image.id.split("/")
        place = (self._settings.resource_group, self._gallery.name, definition)
        self._versions.begin_delete(*place, version).result()
        try:
            ours = _IMAGE_TAG in (self._definitions.get(*place).tags or {})
        except ResourceNotFoundError:
            return
        if ours and not list(self._versions.list_by_gallery_image(*place)):
            self._definitions.begin_delete(*place).result()

    def _make_definition(self, image: DiskImage) -> None:
        from azure.core.exceptions import ResourceNotFoundError
        from azure.mgmt.compute.models import GalleryImage

        place = self._place(image)
        try:
            self._definitions.get(*place)
        except ResourceNotFoundError:
            body = definition_body(self._settings, image)
            self._definitions.begin_create_or_update(*place, GalleryImage(body)).result()

    def _refuse_definition(self, image: DiskImage) -> None:
        found = self._definitions.get(*self._place(image))
        hint = "name another `gallery.definition`, or remove this one with its versions"
        _refuse_generation(found, self._settings, hint)

    def _get(self, image: DiskImage) -> models.GalleryImageVersion | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return self._versions.get(*self._place(image), version_of(image.digest))
        except ResourceNotFoundError:
            return None

    def _place(self, image: DiskImage) -> tuple[str, str, str]:
        definition = self._gallery.definition or f"{TAG_PREFIX}-{image.name}"
        return self._settings.resource_group, self._gallery.name, definition

    def _storage_id(self) -> str:
        group = self._settings.storage_resource_group or self._settings.resource_group
        kind = "Microsoft.Storage/storageAccounts"
        name = self._settings.storage_account
        return resource_id(self._account.subscription, group, kind, name)


def refuse_architecture(settings: Settings, image: DiskImage) -> None:
    """Raise KubekilnError for an image of which Azure would make no machine."""
    if image.architecture != "amd64" and (not settings.gallery or settings.generation == "V1"):
        raise KubekilnError(
            f"{image.remote_name} is for {image.architecture}, which Azure takes only into a "
            "gallery, of generation V2",
            hint="set `gallery`, and `size` (or `sizes`) of such machines: Standard_D2ps_v6",
        )


def version_of(digest: str) -> str:
    """Name a version after a digest: Azure's have three numbers of up to 31 bits."""
    return f"1.{int(digest[:7], 16)}.{int(digest[7:14], 16)}"


def managed_image_body(settings: Settings, image: DiskImage, url: str) -> dict[str, Any]:
    """Describe a managed image as the Resource Manager wants it."""
    disk = {
        "osType": "Linux",
        "osState": "Generalized",
        "blobUri": url,
        "caching": "ReadWrite",
        "storageAccountType": settings.disk_type.replace("_ZRS", "_LRS"),
    }
    return {
        "location": settings.location,
        "tags": _tags(settings, image),
        "properties": {
            "hyperVGeneration": settings.generation,
            "storageProfile": {"osDisk": disk, "zoneResilient": settings.disk_type.endswith("ZRS")},
        },
    }


def definition_body(settings: Settings, image: DiskImage) -> dict[str, Any]:
    """Describe what all versions of an image have in common."""
    return {
        "location": settings.location,
        "tags": {**settings.tags, _IMAGE_TAG: image.name},
        "properties": {
            "osType": "Linux",
            "osState": "Generalized",
            "hyperVGeneration": settings.generation,
            "architecture": _ARCHITECTURES[image.architecture],
            "identifier": {
                "publisher": TAG_PREFIX,
                "offer": image.name,
                "sku": f"{settings.generation}-{image.architecture}",
            },
            # Of the sixth generation on sizes have NVMe alone; Gen 1 has SCSI alone.
            "features": [_CONTROLLERS] if settings.generation == "V2" else [],
        },
    }


def version_body(
    settings: Settings, gallery: Gallery, image: DiskImage, url: str, storage_id: str
) -> dict[str, Any]:
    """Describe one version, and in which regions it is to be."""
    return {
        "location": settings.location,
        "tags": _tags(settings, image),
        "properties": {
            "publishingProfile": {
                "targetRegions": [
                    {"name": region, "regionalReplicaCount": gallery.replicas}
                    for region in _regions(settings, gallery)
                ],
            },
            "storageProfile": {
                "osDiskImage": {
                    "hostCaching": "ReadWrite",
                    "source": {"uri": url, "storageAccountId": storage_id},
                },
            },
        },
    }


def _regions(settings: Settings, gallery: Gallery) -> list[str]:
    return list(dict.fromkeys((settings.location, *gallery.regions)))


def regions_lacking(version: Mapping[str, Any], settings: Settings, gallery: Gallery) -> list[str]:
    """List the regions in which a version isn't, or with another number of replicas."""
    profile = version.get("properties", {}).get("publishingProfile") or {}
    # Azure answers with names for people: `West Europe`.
    there = {
        str(one["name"]).replace(" ", "").lower(): one.get("regionalReplicaCount")
        for one in profile.get("targetRegions") or ()
    }
    wanted = _regions(settings, gallery)
    return [r for r in wanted if there.get(r.replace(" ", "").lower()) != gallery.replicas]


def _refuse_generation(found: Any, settings: Settings, hint: str) -> None:
    generation = found.as_dict().get("properties", {}).get("hyperVGeneration")
    if generation not in (None, settings.generation):
        raise KubekilnError(
            f"{found.name} is of generation {generation}, the target says {settings.generation}",
            where=str(found.id),
            hint=f"{hint}, and upload again",
        )


def _tags(settings: Settings, image: DiskImage) -> dict[str, str]:
    return {**settings.tags, _IMAGE_TAG: image.name, _SHA_TAG: image.sha256}


def _is_whole(found: Any, image: DiskImage) -> bool:
    state = found.properties.provisioning_state if found.properties else None
    return state == "Succeeded" and _tags_of(found).get(_SHA_TAG) == image.sha256


def _refuse_foreign(found: Any, name: str) -> None:
    if _IMAGE_TAG not in _tags_of(found):
        raise KubekilnError(
            f"an image named {name} is there that kubekiln didn't make",
            where=str(found.id),
            hint="remove or rename it",
        )


def _tags_of(found: Any) -> Mapping[str, str]:
    return found.tags or {}
