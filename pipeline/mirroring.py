# SPDX-License-Identifier: Apache-2.0
"""How is a directory filled from which a host without any network can bake?"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kubekiln import progress
from kubekiln.errors import KubekilnError, Problem, StorageError
from kubekiln.files import make_dir, storage_errors
from pipeline.lock import Architecture, DebianFile, Lock
from pipeline.sources.deb import host_mirror
from pipeline.sources.download import download
from pipeline.sources.gomod import recorded
from pipeline.sources.mirror import built_path, mirror_path
from pipeline.sources.provider import Context, Request, Unreachable
from pipeline.stages.fetch import DEFAULT_PROVIDERS, Fetcher
from pipeline.store import Store


@dataclass(frozen=True)
class Mirrored:
    """One file of a mirror."""

    place: str
    new: bool
    """It wasn't there, or was not the right one."""


def fill_mirror(
    lock: Lock,
    directory: Path,
    *,
    architectures: Sequence[Architecture],
    components: Sequence[str] = (),
    all_versions: bool = False,
    store: Store,
    debian_mirror: str | None = None,
) -> list[Mirrored]:
    """Put every locked component (or those named) into `directory`; what is there stays.

    The first version of each, or all. Upstream artefacts where they can be reached; else the
    programs, built here. Raises one error with all that could not be had, after everything else
    was put there; StorageError at once where nothing can be put.
    """
    make_dir(directory)
    context = Context(lock, store, debian_mirror=debian_mirror)
    done: list[Mirrored] = []
    problems: list[Problem] = []
    for request in _requests(context, architectures, components, all_versions):
        try:
            done += _mirror(request, directory)
        except StorageError:
            raise
        except KubekilnError as error:
            problems.extend(error.problems)
    if problems:
        raise KubekilnError.of(problems)
    return done


def _requests(
    context: Context,
    architectures: Sequence[Architecture],
    components: Sequence[str],
    all_versions: bool,
) -> Iterable[Request]:
    lock = context.lock
    for component in components or sorted(lock.components):
        if component not in lock.components:
            lock.release(component, "")  # says what there is
        releases = list(lock.components[component].items())
        for version, release in releases if all_versions else releases[:1]:
            for architecture in architectures:
                yield Request(component, version, architecture, release, context)


def _mirror(request: Request, directory: Path) -> list[Mirrored]:
    release, architecture = request.release, request.architecture
    if architecture in release.deb:
        return [_debian(file, request, directory) for file in release.deb[architecture]]
    try:
        artefacts = release.upstream.get(architecture, ())
        found = [
            _download(mirror_path(a.url), a.url, a.digest, request, directory) for a in artefacts
        ]
    except Unreachable as error:
        progress.say(f"{request.title} not from upstream: {error.problems[0].what}")
        found = []
    if found:
        return found
    if not release.gomod:
        raise KubekilnError(f"{request.title} could not be reached", hint="see the lines above")
    return _built(request, directory)


def _debian(file: DebianFile, request: Request, directory: Path) -> Mirrored:
    mirror = request.context.debian_mirror or host_mirror()
    url = f"{mirror.rstrip('/')}/{file.path}"
    return _download(f"debian/{file.path}", url, ("sha256", file.sha256), request, directory)


def _download(
    place: str, url: str, digest: tuple[str, str], request: Request, directory: Path
) -> Mirrored:
    target = directory / place
    if _is(target, digest):
        return Mirrored(place, new=False)
    make_dir(target.parent)
    with request.context.store.workspace() as scratch:
        title = f"Downloading {request.title}"
        download(url, scratch / "file", digest=digest, context=request.context, title=title)
        _put(scratch / "file", target)
    return Mirrored(place, new=True)


def _built(request: Request, directory: Path) -> list[Mirrored]:
    """Copy programs from the store, building them first if need be; images are made of them.

    Raises KubekilnError if no hash of theirs is on record: nobody would take them from a mirror.
    """
    build = request.release.gomod
    if build is None or recorded(build, request.context.lock, request.architecture) is None:
        raise KubekilnError(
            f"no hash of a build of {request.title} ({request.architecture}) is on record",
            hint="`kubekiln lock update` builds it and puts it there; take that lock along",
        )
    fetcher = Fetcher(request.context, DEFAULT_PROVIDERS)
    plain = replace(request, release=request.release.model_copy(update={"images": ()}))
    found: list[Mirrored] = []
    for name, path in sorted(fetcher.fetch(plain, ["gomod"]).files.items()):
        place = built_path(request, name)
        target = directory / place
        new = not _is(target, ("sha256", path.name))
        if new:
            make_dir(target.parent)
            _put(path, target)
        found.append(Mirrored(place, new=new))
    return found


def _put(source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    with storage_errors(target):
        shutil.copyfile(source, part)
        part.rename(target)


def _is(path: Path, digest: tuple[str, str]) -> bool:
    if not path.is_file():
        return False
    algorithm, wanted = digest
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest() == wanted
