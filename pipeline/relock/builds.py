# SPDX-License-Identifier: Apache-2.0
"""Which bytes did builds give here? (They go on record, so that every later build is compared.)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.lock import ARCHITECTURES, Architecture, Built, Lock, Release
from pipeline.sources.gomod import GoMod, recorded, toolchain_name
from pipeline.sources.provider import Context, Request
from pipeline.store import Store


def record_builds(lock: Lock, store: Store) -> Lock:
    """Add the hashes of builds that the store has and the lock doesn't; never replaces one."""
    context = Context(lock, store)
    components: dict[str, dict[str, Release]] = {}
    for component, releases in lock.components.items():
        components[component] = {}
        for version, release in releases.items():
            requests = [Request(component, version, a, release, context) for a in ARCHITECTURES]
            components[component][version] = _with_builds(release, requests)
    return lock.model_copy(update={"components": components})


def _with_builds(release: Release, requests: list[Request]) -> Release:
    if release.gomod is None:
        return release
    new: list[Built] = []
    for request in requests:
        found = _from_store(request)
        lock = request.context.lock
        if found and recorded(release.gomod, lock, request.architecture) is None:
            new.append(_built(release, lock, request.architecture, found))
    if not new:
        return release
    built = (*release.gomod.built, *new)
    return release.model_copy(update={"gomod": release.gomod.model_copy(update={"built": built})})


def _from_store(request: Request) -> Mapping[str, Path] | None:
    provider = GoMod(lambda _component, _version: {})
    return request.context.store.lookup(provider.key(request))


def _built(
    release: Release, lock: Lock, architecture: Architecture, found: Mapping[str, Path]
) -> Built:
    assert release.gomod is not None
    return Built(
        toolchain=toolchain_name(release.gomod, lock),
        architecture=architecture,
        sha256={name: path.name for name, path in sorted(found.items())},
    )
