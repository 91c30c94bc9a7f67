# SPDX-License-Identifier: Apache-2.0
"""How does `components.yaml` become a new lock, keeping every pin that still holds?"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubekiln.errors import KubekilnError, Problem
from kubekiln.files import make_dir
from kubekiln.paths import cache_dir
from pipeline.components import Components, WantedComponent, fill_in
from pipeline.lock import (
    ARCHITECTURES,
    Architecture,
    Artefact,
    DebianFile,
    GoBuild,
    Image,
    Lock,
    Release,
)
from pipeline.relock.builds import record_builds
from pipeline.relock.debian import DebianIndex, is_wanted
from pipeline.relock.gomod import resolve_build
from pipeline.relock.toolchains import resolve_toolchains
from pipeline.relock.upstream import resolve_upstream
from pipeline.sources.deb import host_mirror
from pipeline.sources.gocommand import Go
from pipeline.sources.gomod import GOMODULES_DIR
from pipeline.sources.gomodules import module_source
from pipeline.sources.provider import Unreachable
from pipeline.sources.toolchain import install_toolchain
from pipeline.store import Store


@dataclass(frozen=True)
class Options:
    """What an update may do."""

    refresh: bool = False
    """Resolve Go modules anew, also where nothing changed."""
    trust_first: bool = False
    """Pin what comes where a project publishes no checksums."""
    gomodules_dir: Path = GOMODULES_DIR
    debian_mirror: str | None = None


@dataclass
class Updated:
    """A new lock, and what could not be pinned."""

    lock: Lock
    missing: list[Problem] = field(default_factory=list)


def update_lock(
    wanted: Components, previous: Lock | None, *, store: Store, options: Options
) -> Updated:
    """Make the lock of what is wanted.

    A provider for which no evidence can be had is left out and listed in `missing`; raises
    KubekilnError for a component that then has no provider at all.
    """
    toolchains = resolve_toolchains(wanted.toolchains, previous.toolchains if previous else None)
    with tempfile.TemporaryDirectory(prefix="kubekiln-relock-") as scratch:
        updater = _Updater(options, Path(scratch), [])
        updater.go = Go(install_toolchain(toolchains.go) / "go", base=make_dir(cache_dir() / "go"))
        components: dict[str, dict[str, Release]] = {}
        for name, component in wanted.components.items():
            releases = previous.components.get(name, {}) if previous else {}
            components[name] = {
                version: updater.release(name, version, component, releases.get(version))
                for version in component.versions
            }
    homeless = [
        Problem(f"nobody can give {name} {version}", hint="see the lines above")
        for name, releases in components.items()
        for version, release in releases.items()
        if not (release.upstream or release.deb or release.gomod)
    ]
    if homeless:
        raise KubekilnError.of([*updater.missing, *homeless])
    lock = Lock(format=1, toolchains=toolchains, components=components)
    return Updated(record_builds(lock, store), updater.missing)


@dataclass
class _Updater:
    """Resolves one release after the other; remembers hosts and indexes."""

    options: Options
    scratch: Path
    missing: list[Problem]
    go: Go = field(init=False)
    index: DebianIndex | None = None

    def release(
        self, name: str, version: str, wanted: WantedComponent, previous: Release | None
    ) -> Release:
        """Pin one version of one component."""
        images = (fill_in(image.model_dump(), version) for image in wanted.images)
        return Release(
            upstream=self._upstream(wanted, version, previous, name),
            deb=self._debian(wanted, version, previous, name),
            gomod=self._build(wanted, version, previous, name),
            images=tuple(Image.model_validate(image) for image in images),
        )

    def _upstream(
        self, wanted: WantedComponent, version: str, previous: Release | None, name: str
    ) -> Mapping[Architecture, tuple[Artefact, ...]]:
        found: dict[Architecture, tuple[Artefact, ...]] = {}
        for architecture in ARCHITECTURES if wanted.upstream else ():
            assert wanted.upstream is not None
            try:
                found[architecture] = resolve_upstream(
                    wanted.upstream,
                    version,
                    architecture,
                    previous=previous.upstream.get(architecture, ()) if previous else (),
                    module_source=self._module,
                    trust_first=self.options.trust_first,
                )
            except Unreachable as error:
                self._note(f"{name} {version}", error)
        return found

    def _debian(
        self, wanted: WantedComponent, version: str, previous: Release | None, name: str
    ) -> Mapping[Architecture, tuple[DebianFile, ...]]:
        found: dict[Architecture, tuple[DebianFile, ...]] = {}
        for architecture in ARCHITECTURES if wanted.deb else ():
            assert wanted.deb is not None
            pinned = previous.deb.get(architecture, ()) if previous else ()
            kept = tuple(f for f in pinned if is_wanted(f, wanted.deb, version))
            if kept and not self.options.refresh:
                files = {"files": wanted.deb.files}
                found[architecture] = tuple(file.model_copy(update=files) for file in kept)
                continue
            try:
                file = self._index().resolve(wanted.deb, version, architecture)
                found[architecture] = (file,)
            except Unreachable as error:
                self._note(f"{name} {version}", error)
        return found

    def _build(
        self, wanted: WantedComponent, version: str, previous: Release | None, name: str
    ) -> GoBuild | None:
        if wanted.gomod is None:
            return None
        try:
            return resolve_build(
                name,
                version,
                wanted.gomod,
                go=self.go,
                gomodules_dir=self.options.gomodules_dir,
                previous=previous.gomod if previous else None,
                refresh=self.options.refresh,
            )
        except Unreachable as error:
            self._note(f"{name} {version}", error)
            return None

    def _index(self) -> DebianIndex:
        if self.index is None:
            mirror = self.options.debian_mirror or host_mirror()
            self.index = DebianIndex(mirror, self.scratch)
        return self.index

    def _module(self, module: str, version: str) -> Path:
        return module_source(self.go, make_dir(self.scratch / "outside"), module, version)

    def _note(self, title: str, error: Unreachable) -> None:
        first = error.problems[0]
        problem = Problem(f"{title}: {first.what}", hint=first.hint)
        if problem not in self.missing:
            self.missing.append(problem)
