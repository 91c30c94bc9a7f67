# SPDX-License-Identifier: Apache-2.0
"""What must a platform elsewhere be able to do, and what is an image or a machine to it?

A platform is told what to do once and does it once: what must be retried, remembered or done side
by side is `kubekiln.operations.delivery`'s. Whatever it makes bears our tags, by which it is found
again; nothing without them is ever touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import Field

from kubekiln.channel import CHANNELS, DatasourceName, compress
from kubekiln.config import Model
from kubekiln.errors import KubekilnError, Problem
from kubekiln.files import sha256_file
from kubekiln.secret import Secret

FormatName = Literal["raw", "qcow2", "vmdk", "ova", "vhd", "gce", "tar"]
InstanceState = Literal["starting", "running", "stopped", "failed"]
Advance = Callable[[int], None]
"""Told how many bytes of an upload were done in addition."""

TAG_PREFIX = "kubekiln"
"""Tags are `kubekiln-cluster`, `kubekiln-node`, `kubekiln-payload`, `kubekiln-image`; where a
platform forbids `-` it says how it writes them."""


class TransientError(KubekilnError):
    """The platform may do the same thing if it is asked again: throttled, busy, cut off, 5xx."""


class TargetSettings(Model):
    """What every file of `configs/targets` has."""

    type: str
    """Which platform it is."""
    parallel: int = Field(default=8, ge=1, le=64)
    """How many machines are made, or removed, at a time."""

    def below(self, root: Path) -> Self:
        """Take paths that aren't absolute as paths below the project."""
        del root
        return self


@dataclass(frozen=True)
class DiskImage:
    """A baked image in the format that a platform takes."""

    name: str
    digest: str
    """Of what it was baked from; 64 hexadecimal digits."""
    path: Path
    format: FormatName
    sha256: str
    """Of the file."""
    virtual_size: int
    """Of the disk, in bytes."""
    architecture: str = "amd64"

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self.path.stat().st_size

    @property
    def remote_name(self) -> str:
        """What it is called on a platform: one name for one content."""
        return f"{TAG_PREFIX}-{self.name}-{self.digest[:12]}"


@dataclass(frozen=True)
class RemoteImage:
    """An image that a platform has."""

    id: str
    name: str


@dataclass(frozen=True)
class InstanceSpec:
    """One node as a machine to be made."""

    cluster: str
    node: str
    role: str
    seed_dir: Path
    """Directory with user-data, meta-data and network-config, as rendered."""
    seed_iso: Path
    """The three of them as a NoCloud CD."""
    payload: str
    """Digest of what the machine is made of: user-data and image."""
    macs: tuple[str, ...]
    """Of its network cards, that of the node network first."""
    addresses: tuple[str, ...]
    """Of the node network, without prefix length."""
    cpus: int
    memory_mib: int
    disk_gib: int
    etcd_disk_gib: int | None = None
    """Size of a second disk, empty at first, that the database has to itself; it bears the
    machine's tags where the platform's disks can, and goes with the machine."""
    key_dir: Path | None = None
    """Directory with the machine's key to its user-data, if that is encrypted: a credential of
    systemd's (`kubekiln.age-key`), the same as an SMBIOS string of type 11 (`smbios`) and as a CD
    (`key.iso`). Whatever carries it must be another way than the user-data's."""
    user_data_sha256: str | None = None
    """Of the rendered user-data that `payload` stands for, if that is to be compared."""

    def refuse_other_rendering(self) -> None:
        """Raise KubekilnError if the seed is no longer what `payload` stands for."""
        path = self.seed_dir / "user-data"
        if self.user_data_sha256 in (None, sha256_file(path) if path.is_file() else ""):
            return
        raise KubekilnError(
            f"{self.cluster} was rendered again meanwhile, {self.node} would get other user-data "
            "than it is tagged with",
            where=str(path),
            hint="once that rendering is done, boot again: machines that are there are left alone",
        )

    @property
    def user_data(self) -> Secret:
        """What cloud-init is given: gzip of the rendered user-data, not yet base64."""
        return Secret(compress((self.seed_dir / "user-data").read_bytes()))

    def attached(self, datasource: DatasourceName) -> dict[str, Secret]:
        """What a platform is given by this channel, in its form: file name → content."""
        names = ("user-data", "meta-data", "network-config")
        seed = {name: (self.seed_dir / name).read_bytes() for name in names}
        return {name: Secret(data) for name, data in CHANNELS[datasource].attach(seed).items()}

    @property
    def meta_data(self) -> Secret:
        """NoCloud's meta-data, with the instance's id and the host's name."""
        return Secret((self.seed_dir / "meta-data").read_bytes())

    @property
    def network_config(self) -> Secret:
        """cloud-init's network configuration, version 2."""
        return Secret((self.seed_dir / "network-config").read_bytes())

    @property
    def name(self) -> str:
        """What the machine is called on a platform."""
        return f"{self.cluster}-{self.node}"

    @property
    def tags(self) -> dict[str, str]:
        """By which the machine, and all that is made for it, is found again."""
        return {
            f"{TAG_PREFIX}-cluster": self.cluster,
            f"{TAG_PREFIX}-node": self.node,
            f"{TAG_PREFIX}-payload": self.payload,
        }


@dataclass(frozen=True)
class Instance:
    """A machine of ours that a platform has."""

    id: str
    cluster: str
    node: str
    payload: str
    state: InstanceState
    addresses: tuple[str, ...] = ()
    detail: str = ""
    """What the platform says of it beside its state."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """What the platform needs to know of it again."""
    lone_disks: tuple[str, ...] = ()
    """Disks of its that are attached to nothing, and that a machine may have written to: for these
    `boot` doesn't make it anew, though it is `failed`."""


def cannot_forget(instance: Instance, why: str) -> KubekilnError:
    """Say of a platform that it keeps user-data for as long as the machine is there."""
    return KubekilnError(
        f"{instance.cluster}-{instance.node}: {why}",
        hint="`userdata.protect: url` gives the platform nothing that it could show "
        "(docs/secrets.md)",
    )


class Platform(Protocol):
    """A hypervisor or cloud that is reached over its API; one file of this folder each."""

    type: str
    format: FormatName
    """Of the images that it takes."""

    def problems(self) -> list[Problem]:
        """Say why nothing can be done there: no credentials, not reachable, no such network.

        Asks the platform; makes nothing.
        """

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for this content among what was uploaded whole; by our tags, not by name alone."""

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Bring the image there, compare checksums, and only then let it count as whole.

        Goes on where an earlier upload of the same content was cut off, if the platform can. Raises
        TransientError, or KubekilnError; what is half there is never found by `find_image`.
        """

    def delete_image(self, image: RemoteImage) -> None:
        """Remove an image; fine if it is gone."""

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> Sequence[Problem]:
        """Say which nodes can't become machines there, each with its name: all of them, at once.

        Asked before the image is sent or a machine is made: by what is described, and by what the
        platform offers (a list of sizes, a subnet), no node by itself. `create` may rely on it.
        """

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List machines of ours, of one cluster or of all; also half-made ones."""

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Make a machine with its user-data attached, and power it on.

        Called again for the same spec where no answer came; a platform that knows such tokens is
        given one made of the tags. What was made of a machine when something fails is found by
        `list_instances`, with state `failed`, and removed by `delete`.
        """

    def start(self, instance: Instance) -> None:
        """Power on a machine that was stopped; fine if it runs."""

    def read_console(self, instance: Instance) -> str | None:
        """Give what the machine wrote to its serial console; None if the platform keeps none."""

    def forget_user_data(self, instance: Instance) -> None:
        """Remove what the platform keeps of a machine's user-data, for when it has its role.

        Fine if that is gone. Raises KubekilnError with what helps if the platform can't.
        """

    def delete(self, instance: Instance) -> None:
        """Remove a machine with its disks and its seed; return when it is gone; fine if it is."""
