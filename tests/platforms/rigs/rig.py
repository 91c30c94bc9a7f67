# SPDX-License-Identifier: Apache-2.0
"""What must a platform's test server be able to do for the shared contract to be tried on it?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from pipeline.targets.platform import DiskImage, FormatName, Instance, Platform, RemoteImage

Images = tuple[DiskImage, DiskImage]
Trouble = Literal["wrong-credentials", "full-storage", "cut", "server-error", "away"]

NOBODY = "127.0.0.1:1"
"""Where nobody listens."""


class Rig(Protocol):
    """A platform's server of this test run, a context manager; one file of this folder each.

    Every test gets the same one, and finds and leaves it empty.
    """

    name: str
    format: FormatName
    forgets: bool
    """Whether the platform can be told to forget a machine's user-data."""
    cannot: Mapping[str, str]
    """What can't be tried on it (a Trouble, `console`, `boot`, what is odd of a node) → why; listed
    in docs/support.md."""

    def __enter__(self) -> Rig: ...

    def __exit__(self, *_: object) -> None: ...

    def connect(self, trouble: Trouble | None = None) -> Platform:
        """Make the platform, as its users' settings and credentials would.

        With trouble: with credentials that are refused; on a server whose storage has less room
        than an image needs; whose connections break in the middle of an upload, or the making of
        a machine; that answers with its own error (HTTP 500 or 503); to which no connection comes
        about.
        """

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        """Read an uploaded image back from the server; the SHA-256 of its disk, as raw."""

    def user_data(self, instance: Instance) -> bytes:
        """Read back what the machine's cloud-init is given, as the machine would see it.

        Decoded from base64 and seed CD, but not from gzip, which cloud-init takes.
        """

    def etcd_disks(self, instance: Instance) -> list[int]:
        """Size in GiB of each disk that the machine has beside that of its system."""

    def leftovers(self) -> list[str]:
        """Name all that is on the server and wasn't at the beginning: disks, images, machines."""


def upload(platform: Platform, image: DiskImage) -> RemoteImage:
    """Upload an image, with nobody to see how far it is."""
    return platform.upload(image, lambda _n: None)
