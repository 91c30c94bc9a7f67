# SPDX-License-Identifier: Apache-2.0
"""What can be said about an image in `configs/images/*.yaml`?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from kubekiln.config import Key, Model, Source, Version, invalid, load_model
from kubekiln.paths import Project
from pipeline.datasources import PACKAGES, SourceName
from pipeline.lock import Architecture, ProviderName

Url = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$")]
Word = Annotated[str, Field(pattern=r"^[^\s\"'\\$`]+$")]

# What a node of any role needs; an image without one of them can't be baked.
REQUIRED_COMPONENTS = (
    "cni-plugins", "containerd", "coredns", "crictl", "etcd", "flannel", "kubernetes", "pause",
    "runc",
)  # fmt: skip


class Apt(Model):
    """Debian archives."""

    mirror: Url | None = None
    """Archive that the image's apt sources name; default: it has none, since nodes are replaced
    and not upgraded in place."""
    security_mirror: Url | None = None
    """Archive of security updates, likewise; installed from in the bake, too."""
    build_mirror: Url | None = None
    """Archive the bake installs from; default: this host's, else `mirror`, else the one
    that this host's package python-apt-common knows."""
    build_security_mirror: Url | None = None
    """The same for security updates; default: `debian-security` beside `build_mirror`, else the
    host's, else `security_mirror`, else the one beside what is installed from."""
    components: tuple[Word, ...] = ("main",)
    """Archive areas; `main` is enough for everything in our elements."""


class Disk(Model):
    """The disk image."""

    size_mib: int = Field(default=4096, ge=2048, le=1 << 20, examples=[4096, 20480])
    """Virtual size in MiB; a machine may have a larger disk, its root grows at the first boot."""
    free_mib: int = Field(default=512, ge=64)
    """Least space in MiB that must be free on the root of the finished disk."""


class Image(Model):
    """An image: a distribution, elements that make a node of it, and what they install."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?$", examples=["debian-13"])
    """Name of the image and of its files; default: the name of the configuration file."""
    distribution: Literal["debian"]
    """Which distribution it is made of."""
    release: Word = Field(examples=["trixie"])
    """Release of the distribution, by its code name."""
    architecture: Architecture = "amd64"
    """CPU architecture, as Debian calls it."""
    apt: Apt = Apt()
    """Where packages come from."""
    elements: tuple[Word, ...] = Field(min_length=1)
    """diskimage-builder elements from `elements/` (or upstream's); what they depend on is added."""
    packages: tuple[Word, ...] = ()
    """Packages of the distribution beyond those that the elements ask for."""
    components: dict[str, Version]
    """Component → version, which the lock must have."""
    providers: tuple[ProviderName, ...] = ("mirror", "upstream", "gomod", "deb")
    """Who may give components, in this order; those that can't are passed over."""
    component_mirror: str | None = None
    """URL or directory of `<original host>/<original path>`, for the provider `mirror`."""
    datasources: tuple[SourceName, ...] = Field(default=("NoCloud",), min_length=1)
    """cloud-init's datasources that the node asks for its user-data, in this order, and no others;
    one that is alone is asked without looking whether the machine is of that platform."""
    kernel_arguments: tuple[Word, ...] = ()
    """Arguments of the Linux kernel; the last `console=` is the one systemd writes to."""
    disk: Disk = Disk()
    """The disk image."""
    # What is wrong with it may turn out late: in the bake, when its file was read long before.
    _path: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_every_component(self) -> Self:
        lacking = [c for c in REQUIRED_COMPONENTS if c not in self.components]
        if lacking:
            raise invalid(f"no version for {', '.join(lacking)}", at=("components",))
        return self

    @model_validator(mode="after")
    def _asks_each_datasource_once(self) -> Self:
        for index, name in enumerate(self.datasources):
            if name in self.datasources[:index]:
                raise invalid(f"{name} is named twice", at=("datasources", index))
        return self

    def where(self, *at: Key) -> str | None:
        """Name the place of a key in the file that the image was read from, if it was from one."""
        if self._path is None:
            return None
        source = Source(self._path)
        return source.where(source.present(at))

    @property
    def wanted_packages(self) -> set[str]:
        """Packages of the distribution beyond those of the elements, with the datasources'."""
        needed = (PACKAGES.get(name, ()) for name in self.datasources)
        return {*self.packages, *(package for names in needed for package in names)}

    @property
    def kubernetes(self) -> str:
        """The Kubernetes version."""
        return self.components["kubernetes"]


def load_image(name_or_path: str, project: Project) -> Image:
    """Read `configs/images/NAME.yaml`, or a file; raises ConfigError with all its problems."""
    path: Path = project.config_path("images", name_or_path)
    image = load_model(Image, path, extra={"name": path.stem})
    image._path = path
    return image
