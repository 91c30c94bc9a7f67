# SPDX-License-Identifier: Apache-2.0
"""Is the lock what components.yaml asks for, and are the Go modules those it was made with?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kubekiln.errors import ConfigError, Problem
from pipeline.components import (
    Components,
    WantedArtefact,
    WantedBuild,
    WantedComponent,
    WantedDebian,
    fill_in,
)
from pipeline.lock import GoBuild, Lock, Release
from pipeline.relock.debian import is_wanted
from pipeline.relock.gomod import settings_of
from pipeline.sources.gomod import mod_digest

_UPDATE = "run `kubekiln lock update`"


def check_lock(lock: Lock, wanted: Components, *, gomodules_dir: Path) -> list[Problem]:
    """List everything in which the lock and what it was made from differ; asks no network.

    Not how evidence is looked for (`checksums`, `signature`, …): that says how to make a new pin,
    and those that are there stay.
    """
    problems = list(_check_toolchains(lock, wanted))
    for component, want in wanted.components.items():
        releases = lock.components.get(component, {})
        for version in want.versions:
            release = releases.get(version)
            if release is None:
                what = f"{component} {version} is wanted and not locked"
                problems.append(Problem(what, hint=_UPDATE))
                continue
            problems += _check_release(f"{component} {version}", version, want, release)
            problems += _check_modules(release.gomod, gomodules_dir)
        extra = [v for v in releases if v not in want.versions]
        problems += [Problem(f"{component} {v} is locked, not wanted", hint=_UPDATE) for v in extra]
    extra = [c for c in lock.components if c not in wanted.components]
    return problems + [Problem(f"{c} is locked and not wanted", hint=_UPDATE) for c in extra]


def _check_toolchains(lock: Lock, wanted: Components) -> Iterator[Problem]:
    for name in ("go", "zig"):
        want, have = getattr(wanted.toolchains, name), getattr(lock.toolchains, name).version
        if want != have:
            yield Problem(f"{name} {want} is wanted, {have} is locked", hint=_UPDATE)


def _check_release(
    title: str, version: str, want: WantedComponent, release: Release
) -> Iterator[Problem]:
    for provider in ("upstream", "deb"):
        if getattr(release, provider) and not getattr(want, provider):
            yield Problem(f"{title}: {provider} is locked, not wanted", hint=_UPDATE)
    if want.upstream:
        yield from _check_upstream(title, version, want.upstream, release)
    if want.deb:
        yield from _check_debian(title, version, want.deb, release)
    yield from _check_build(title, version, want.gomod, release.gomod)
    images = [fill_in(image.model_dump(), version) for image in want.images]
    if images != [image.model_dump() for image in release.images]:
        yield Problem(f"{title}: images differ from components.yaml", hint=_UPDATE)
    if not (release.upstream or release.deb or release.gomod):
        yield Problem(f"{title} is locked with nobody to give it", hint=_UPDATE)


def _check_build(
    title: str, version: str, want: WantedBuild | None, build: GoBuild | None
) -> Iterator[Problem]:
    if (want is None) != (build is None):
        yield Problem(f"{title}: Go build wanted or locked, not both", hint=_UPDATE)
    for key, value in settings_of(want, version).items() if want and build else ():
        if value != getattr(build, key):
            yield Problem(f"{title}: {key} differ from components.yaml", hint=_UPDATE)


def _check_upstream(
    title: str, version: str, want: WantedArtefact, release: Release
) -> Iterator[Problem]:
    for architecture, artefacts in release.upstream.items():
        url = fill_in(want.url, version, architecture)
        if [a.url for a in artefacts] != [url]:
            yield Problem(f"{title}: the {architecture} artefact is not {url}", hint=_UPDATE)
        elif artefacts[0].files != fill_in(want.files, version, architecture):
            what = f"{title}: files of the {architecture} artefact differ from components.yaml"
            yield Problem(what, hint=_UPDATE)


def _check_debian(
    title: str, version: str, want: WantedDebian, release: Release
) -> Iterator[Problem]:
    for architecture, files in release.deb.items():
        if not all(is_wanted(file, want, version) for file in files):
            what = f"{title}: Debian's {architecture} file is not the one of components.yaml"
            yield Problem(what, hint=_UPDATE)
        elif any(file.files != want.files for file in files):
            what = f"{title}: files of Debian's {architecture} file differ from components.yaml"
            yield Problem(what, hint=_UPDATE)


def _check_modules(build: GoBuild | None, gomodules_dir: Path) -> Iterator[Problem]:
    if build is None:
        return
    directory = gomodules_dir / build.directory
    try:
        digest = mod_digest(directory)
    except ConfigError as error:
        yield from error.problems
        return
    if digest != build.mod_sha256:
        yield Problem("go.mod, go.sum or patches are not those of the lock", where=str(directory))
