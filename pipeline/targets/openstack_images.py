# SPDX-License-Identifier: Apache-2.0
"""How does an image get into Glance, and when does it count as whole?

    made, with our properties      kubekiln-image, kubekiln-sha256      queued
    its bytes are sent                                                  saving, then active
    Glance's hash is ours          kubekiln-verified: sha512:…          found from now on

An image of ours without that last property, or with another hash than it says, is what an upload
left that was cut off: never found, and removed by the next upload of the same file or format. One
of another format is another target's, whole or on its way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress

from openstack import exceptions as sdk
from openstack.image.v2.image import Image

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.progress import say
from pipeline.targets.magic import check_format
from pipeline.targets.openstack_client import Client, wait_until
from pipeline.targets.openstack_errors import asking
from pipeline.targets.openstack_settings import Hardware, Settings
from pipeline.targets.platform import TAG_PREFIX, Advance, DiskImage, RemoteImage

_CHUNK = 1 << 20
_GIB = 1 << 30
# Glance answers when its storage has everything, which may be long after the last byte was sent.
_STORED_S = 900.0
# Glance's default, computed while the file is sent; another one costs reading the file again.
_USUAL_HASH = "sha512"
_DIGEST = f"{TAG_PREFIX}-image"
_SHA256 = f"{TAG_PREFIX}-sha256"
_VERIFIED = f"{TAG_PREFIX}-verified"
# What openstacksdk and Ansible's os_image look for, so that they too see the same content.
_SHA256_OF_SDK = "owner_specified.openstack.sha256"
# As Nova's scheduler calls them.
_ARCHITECTURES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64"}
# docs.openstack.org/api-ref/image/v2: what a change of properties is called.
_PATCH = "application/openstack-images-v2.1-json-patch"
# Glance's lock of an image: the task that imports it (glance, spec "import-multi-stores").
_IMPORT_RUNS = "os_glance_import_task"
_FAILED = frozenset({"killed", "deleted", "pending_delete", "queued"})
FIXED_HARDWARE: Mapping[str, str] = {
    # Also for the config drive, a CD: Nova's default on q35 is SATA, for which Debian 12's cloud
    # kernel has no driver.
    "hw_scsi_model": "virtio-scsi",
    "hw_cdrom_bus": "scsi",
}
"""What every machine of our images needs, whatever the target says."""


class Images:
    """The images of one project."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    def find(self, image: DiskImage) -> RemoteImage | None:
        """Look for this content among what was verified after its upload; have it as wanted now."""
        with asking(f"look for image {image.remote_name}"):
            found = next((one for one in self._ours(image) if _is_whole(one, image)), None)
        if found is None:
            return None
        self._keep_up(found)
        return _remote(found)

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Make the image, send its bytes, compare hashes; remove what is half there if it fails."""
        check_format(image)
        with asking(f"remove what is left of an earlier upload of {image.remote_name}"):
            for left in self._ours(image):
                if _is_leftover(left, image):
                    self._client.image.delete_image(left.id)
        with asking(f"make image {image.remote_name}"):
            made = Image.new(**properties(image, self._settings)).create(self._client.image)
        try:
            return self._fill(made.id, image, advance)
        except BaseException:
            # Best effort: if the cloud can't be reached, the next upload does it.
            with suppress(KubekilnError):
                self.delete(RemoteImage(made.id, image.remote_name))
            raise

    def delete(self, image: RemoteImage) -> None:
        """Remove an image."""
        with asking(f"remove image {image.name}"):
            self._client.image.delete_image(image.id, ignore_missing=True)

    def _ours(self, image: DiskImage) -> list[Image]:
        project = self._client.project_id
        return [
            one
            for one in self._client.image.images(name=image.remote_name)
            # Others may share an image with the same name and properties.
            if one.owner == project and _property(one, _DIGEST) == image.digest
        ]

    def _fill(self, image_id: str, image: DiskImage, advance: Advance) -> RemoteImage:
        body = Body(image, advance)
        self._send(image_id, body, image)
        stored = self._stored(image_id, image)
        algorithm, theirs = str(stored.hash_algo or ""), str(stored.hash_value or "")
        if not theirs:
            algorithm, theirs = "md5", str(stored.checksum or "")
        if theirs != body.digest(algorithm):
            raise IntegrityError(
                f"image {image.remote_name} is not what was sent: its {algorithm} is "
                f"{theirs or 'unknown'}",
                hint="try again; if it happens again, this Glance converts what it imports: "
                "set `transfer: direct`",
            )
        self._mark(stored, f"{algorithm}:{theirs}")
        return _remote(stored)

    def _keep_up(self, found: Image) -> None:
        """Give an image that is there what the target says of the machine by now."""
        wanted = hardware(self._settings.hardware)
        with asking(f"have image {found.name} as the target says"):
            answer = self._client.image.get(f"/images/{found.id}")
            sdk.raise_from_response(answer)
            there = answer.json()
            changed = {key: value for key, value in wanted.items() if there.get(key) != value}
            if changed:
                self._set(found, changed)
                say(f"{found.name}: set {', '.join(f'{k}={v}' for k, v in changed.items())}")

    def _mark(self, stored: Image, verified: str) -> None:
        with asking(f"mark image {stored.name} as whole"):
            self._set(stored, {_VERIFIED: verified})

    def _set(self, image: Image, values: Mapping[str, str]) -> None:
        # `add` also replaces.
        change = [{"op": "add", "path": f"/{key}", "value": v} for key, v in values.items()]
        answer = self._client.image.patch(
            f"/images/{image.id}", json=change, headers={"Content-Type": _PATCH}
        )
        sdk.raise_from_response(answer)

    def _send(self, image_id: str, body: Body, image: DiskImage) -> None:
        glance = self._client.image
        is_direct = self._settings.transfer == "direct"
        headers = {
            "Content-Type": "application/octet-stream", "Accept": "application/json",
            "X-OpenStack-Image-Size": str(image.size),
        }  # fmt: skip
        with asking(f"upload image {image.remote_name}"):
            place = f"/images/{image_id}/{'file' if is_direct else 'stage'}"
            # requests sends what can be iterated and has a length as it is, without a copy.
            answer = glance.put(place, data=body, headers=headers, timeout=_STORED_S)
            sdk.raise_from_response(answer)
            if not is_direct:
                way = {"method": {"name": "glance-direct"}}
                sdk.raise_from_response(glance.post(f"/images/{image_id}/import", json=way))

    def _stored(self, image_id: str, image: DiskImage) -> Image:
        def look() -> Image | None:
            now = self._client.image.get_image(image_id)
            if now.status in _FAILED:
                raise KubekilnError(
                    f"image {image.remote_name} came to nothing: it is {now.status}",
                    where=f"image {image_id}",
                    hint=f"`openstack image show {image_id}` may say why",
                )
            return now if is_stored(now) else None

        stored = wait_until(
            look, what=f"ask for image {image.remote_name}", timeout_s=self._settings.wait_s
        )
        if stored is None:
            raise KubekilnError(
                f"image {image.remote_name} isn't active after {self._settings.wait_s} s",
                where=f"image {image_id}",
                hint="a larger wait_s gives Glance more time",
            )
        return stored


class Body:
    """A file as the body of a request, hashed while it is sent.

    keystoneauth sends it again if the token was no longer valid: from its beginning.
    """

    def __init__(self, image: DiskImage, advance: Advance) -> None:
        self._image = image
        self._advance = advance
        self._hash = hashlib.new(_USUAL_HASH)
        self._size = image.size
        self._sent = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        self._advance(-self._sent)
        self._sent, self._hash = 0, hashlib.new(_USUAL_HASH)
        with self._image.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                self._hash.update(chunk)
                yield chunk
                self._sent += len(chunk)
                self._advance(len(chunk))

    def digest(self, algorithm: str) -> str | None:
        """Give the hash of what was sent; None if there is no such algorithm here."""
        if algorithm == _USUAL_HASH:
            return self._hash.hexdigest()
        if algorithm not in hashlib.algorithms_available:
            return None
        with self._image.path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()


def properties(image: DiskImage, settings: Settings) -> dict[str, object]:
    """Describe an image to Glance, with the machine that it wants."""
    return {
        "name": image.remote_name,
        "disk_format": image.format,
        "container_format": "bare",
        "visibility": "private",
        "min_disk": -(-image.virtual_size // _GIB),
        "architecture": _ARCHITECTURES.get(image.architecture, image.architecture),
        "os_type": "linux",
        _DIGEST: image.digest,
        _SHA256: image.sha256,
        _SHA256_OF_SDK: image.sha256,
        **hardware(settings.hardware),
    }


def hardware(wanted: Hardware) -> dict[str, str]:
    """Give the properties that say which machine the image wants."""
    given = {
        "hw_disk_bus": wanted.disk_bus,
        **FIXED_HARDWARE,
        "hw_vif_model": wanted.vif_model,
        "hw_rng_model": "virtio" if wanted.rng else None,
        "hw_firmware_type": wanted.firmware,
        "hw_machine_type": wanted.machine_type,
    }
    return {key: value for key, value in given.items() if value} | wanted.properties


def _is_whole(found: Image, image: DiskImage) -> bool:
    theirs = {f"{found.hash_algo}:{found.hash_value}", f"md5:{found.checksum}"}
    return (
        found.status == "active"
        and found.size == image.size
        and _property(found, _SHA256) == image.sha256
        and _property(found, _VERIFIED) in theirs
    )


def _is_leftover(found: Image, image: DiskImage) -> bool:
    """Tell whether an image of this content is in the way of this file's, and nobody's."""
    if _property(found, _SHA256) == image.sha256:
        return not _is_whole(found, image)
    return found.disk_format == image.format and _property(found, _VERIFIED) is None


def is_stored(found: Image) -> bool:
    """Tell whether Glance is done with an image's bytes, and so with its properties.

    An import goes on when the image is active: what is changed meanwhile, it writes over.
    """
    return found.status == "active" and not _property(found, _IMPORT_RUNS)


def _property(found: Image, key: str) -> str | None:
    return (found.properties or {}).get(key)


def _remote(found: Image) -> RemoteImage:
    return RemoteImage(str(found.id), str(found.name))
