# SPDX-License-Identifier: Apache-2.0
"""Which exact files does each component consist of, from whom, and who vouches for them?

`configs/components.lock.yaml` is read into these models. `kubekiln lock update` writes it from
`configs/components.yaml`; nothing else does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kubekiln.config import Model, invalid, load_model
from kubekiln.errors import ConfigError, Problem

Architecture = Literal["amd64", "arm64"]
ARCHITECTURES: tuple[Architecture, ...] = ("amd64", "arm64")
ProviderName = Literal["upstream", "mirror", "gomod", "deb"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sha512 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Proof(Model):
    """Why a pinned hash is believed to be the project's own."""

    kind: Literal["signature", "checksum-file", "changelog", "independent", "apt-index", "none"]
    """`signature`: checked when the pin was made. `checksum-file`: the project's own file of
    checksums, over TLS. `changelog`: the project's changelog, out of a Go module that the public
    checksum database vouches for. `independent`: another project pins the same hash. `apt-index`:
    the distribution's signed index. `none`: the first download is believed."""
    evidence: str = ""
    """Where exactly it was seen."""


class Artefact(Model):
    """A file that is downloaded."""

    url: str = Field(pattern=r"^https?://[^/]+/.+", examples=["https://dl.k8s.io/v1.37.1/x.tar.gz"])
    """Where the project publishes it; a mirror has it at `<host>/<path>`."""
    sha256: Sha256 | None = None
    """Its sha256, or:"""
    sha512: Sha512 | None = None
    """Its sha512."""
    files: dict[str, str]
    """What is taken out of it: our name → path inside the archive (`.` is the file itself)."""
    proof: Proof
    """Why the hash is believed."""

    @model_validator(mode="after")
    def _has_a_hash(self) -> Artefact:
        if not (self.sha256 or self.sha512):
            raise invalid(f"{self.url} has no hash", hint="give its sha256 or sha512")
        return self

    @property
    def digest(self) -> tuple[str, str]:
        """The hash to check: algorithm and hex."""
        return ("sha256", self.sha256) if self.sha256 else ("sha512", self.sha512 or "")


class DebianFile(Model):
    """A file of a Debian mirror: a package, or a source archive."""

    path: str = Field(pattern=r"^pool/", examples=["pool/main/l/libx/libx_1.0.orig.tar.gz"])
    """Path below the mirror's root."""
    sha256: Sha256
    """Its sha256, as the signed index has it."""
    files: dict[str, str]
    """What is taken out of it: our name → path inside (`.` is the file itself)."""
    proof: Proof
    """Why the hash is believed."""


class Built(Model):
    """What a build gave, so that the next one can be compared with it."""

    toolchain: str = Field(examples=["go1.26.6", "go1.26.6+zig0.17.1"])
    """The compilers; other ones give other bytes."""
    architecture: Architecture
    """For which architecture."""
    sha256: dict[str, Sha256]
    """Our name → sha256."""


class CProgram(Model):
    """A program of one C file that lies in a Go module."""

    source: str
    """Path inside the module."""
    cflags: tuple[str, ...] = ()
    """Flags of its own, in the upstream build."""


class GoBuild(Model):
    """How the component is built from Go modules."""

    directory: str = Field(pattern=r"^[a-z0-9-]+/[0-9][0-9a-z.+-]*$")
    """Directory below `pipeline/gomodules` that holds its go.mod and go.sum."""
    module: str
    """The module that is the component."""
    version: str = Field(pattern=r"^v\d")
    """That module's version."""
    sum: str = Field(pattern=r"^h1:")
    """That module's hash, as in go.sum."""
    vouched: Literal["sumdb", "pinned-by-us"]
    """Whether the public checksum database knows that hash, or we believed the first download."""
    pinned_by_us: tuple[str, ...] = ()
    """Dependencies (`module version`) that the public checksum database doesn't know."""
    mod_sha256: Sha256
    """sha256 of go.mod, go.sum and patches together: an edit without `lock update` is noticed."""
    packages: dict[str, str] = Field(default_factory=dict)
    """Our name → main package."""
    c_programs: dict[str, CProgram] = Field(default_factory=dict)
    """Our name → C file."""
    tags: tuple[str, ...] = ()
    """Build tags, upstream's own."""
    ldflags: tuple[str, ...] = ()
    """Linker flags that stamp the version."""
    cgo: bool = False
    """Whether C is in it (compiled by the pinned zig, linked with musl, static)."""
    c_libraries: dict[str, str] = Field(default_factory=dict)
    """C libraries it is linked with: component → version in this lock."""
    note: str = ""
    """What differs from the project's own build."""
    built: tuple[Built, ...] = ()
    """Results on record."""


class Image(Model):
    """A container image of one binary, composed by us."""

    reference: str = Field(examples=["registry.k8s.io/pause:3.10.2"])
    """The name under which the container runtime finds it."""
    entrypoint: tuple[str, ...]
    """Command; its first word is where the binary lies."""
    binary: str
    """Which of the component's files it is."""
    user: str = "65532:65532"
    """Numeric uid:gid it runs as, unless the pod says otherwise."""
    ca_certificates: str | None = None
    """Version of the `ca-certificates` component whose roots are put in."""


class Release(Model):
    """One version of one component."""

    upstream: dict[Architecture, tuple[Artefact, ...]] = Field(default_factory=dict)
    """The project's own artefacts (also those of a mirror)."""
    deb: dict[Architecture, tuple[DebianFile, ...]] = Field(default_factory=dict)
    """The distribution's."""
    gomod: GoBuild | None = None
    """Built from Go modules."""
    images: tuple[Image, ...] = ()
    """The container images made of it."""

    def providers(self, architecture: Architecture) -> tuple[ProviderName, ...]:
        """List who can give it for an architecture."""
        found: list[ProviderName] = []
        built = self.gomod is not None and any(
            b.architecture == architecture for b in self.gomod.built
        )
        if architecture in self.upstream or architecture in self.deb or built:
            found.append("mirror")
        if architecture in self.upstream:
            found.append("upstream")
        if self.gomod:
            found.append("gomod")
        if architecture in self.deb:
            found.append("deb")
        return tuple(found)


class Wheel(Model):
    """One file of a Python package."""

    file: str
    """File name."""
    sha256: Sha256
    """Its hash."""


class Toolchain(Model):
    """A compiler that is had as a Python package."""

    package: str
    """Name in the Python package index."""
    version: str
    """Exact version."""
    wheels: dict[Architecture, Wheel]
    """By the architecture it runs on."""


class Toolchains(Model):
    """What builds are made with."""

    go: Toolchain
    """The Go toolchain."""
    zig: Toolchain
    """C compiler and C library (musl), in one."""


class Lock(Model):
    """The pinned components."""

    format: Literal[1]
    """Version of this file's format."""
    toolchains: Toolchains
    """What builds are made with."""
    components: dict[str, dict[str, Release]]
    """Component → version → where it comes from."""

    def release(self, component: str, version: str, *, where: str | None = None) -> Release:
        """Look a version up; raises ConfigError naming those that are there."""
        releases = self.components.get(component)
        if releases is None:
            known = ", ".join(sorted(self.components))
            raise ConfigError(
                f"the lock has no component {component!r}", where=where, hint=f"there are: {known}"
            )
        if version not in releases:
            known = ", ".join(releases)
            raise ConfigError(
                f"the lock has no {component} {version}",
                where=where,
                hint=f"locked: {known}. Add it to configs/components.yaml, run `kubekiln lock "
                "update`, or choose a locked one",
            )
        return releases[version]

    def check_wanted(
        self,
        wanted: Mapping[str, str],
        architecture: Architecture,
        *,
        where: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """Raise one ConfigError with every wanted component that the lock can't give.

        `where` says of a component at which place it is wanted.
        """
        problems: list[Problem] = []
        for component, version in sorted(wanted.items()):
            try:
                release = self.release(component, version)
                if not release.providers(architecture):
                    raise ConfigError(f"the lock has no {architecture} {component} {version}")
            except ConfigError as error:
                problems += [Problem(p.what, where(component), p.hint) for p in error.problems]
        if problems:
            raise ConfigError.of(problems)


def architectures(names: Sequence[str]) -> list[Architecture]:
    """Check names of architectures; raises ConfigError for one we don't know."""
    known = {str(a): a for a in ARCHITECTURES}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"no architecture named {name!r}", hint=f"there are: {', '.join(known)}"
            )
    return [known[name] for name in names]


def lock_path(configs_dir: Path) -> Path:
    """Name the lock file."""
    return configs_dir / "components.lock.yaml"


def load_lock(path: Path) -> Lock:
    """Read the lock; raises ConfigError with every problem in it."""
    return load_model(Lock, path)
