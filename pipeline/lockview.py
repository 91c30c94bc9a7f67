# SPDX-License-Identifier: Apache-2.0
"""What does the lock say, for people; and is what the store has of it sound?"""

from __future__ import annotations

from collections.abc import Iterator

from kubekiln.errors import ConfigError, Problem
from pipeline.components import Components
from pipeline.lock import ARCHITECTURES, Architecture, Lock, Release
from pipeline.relock.check import check_lock
from pipeline.sources.gomod import GOMODULES_DIR
from pipeline.store import Store


def overview(lock: Lock) -> Iterator[str]:
    """List every component: version, providers by architecture, proof of the upstream pin."""
    yield f"{'COMPONENT':<17}{'VERSION':<12}{'AMD64':<24}{'ARM64':<24}UPSTREAM PIN"
    for component, releases in lock.components.items():
        for version, release in releases.items():
            givers = "".join(f"{_givers(release, a):<24}" for a in ARCHITECTURES)
            yield f"{component:<17}{version:<12}{givers}{_proof(release)}"


def _givers(release: Release, architecture: Architecture) -> str:
    # A mirror can have whatever the others have: it says nothing here.
    names = [n for n in release.providers(architecture) if n != "mirror"]
    return ", ".join(names) or "-"


def _proof(release: Release) -> str:
    kinds = {a.proof.kind for artefacts in release.upstream.values() for a in artefacts}
    return ", ".join(sorted(kinds)) or "-"


def detail(lock: Lock, component: str) -> Iterator[str]:
    """Show every pin of one component with its evidence."""
    if component not in lock.components:
        known = ", ".join(lock.components)
        raise ConfigError(f"the lock has no component {component!r}", hint=f"there are: {known}")
    for version, release in lock.components[component].items():
        yield f"{component} {version}"
        for architecture, artefacts in release.upstream.items():
            for artefact in artefacts:
                algorithm, digest = artefact.digest
                yield f"  upstream {architecture}: {artefact.url}"
                yield f"    {algorithm} {digest}"
                yield f"    {artefact.proof.kind}: {artefact.proof.evidence or 'nothing else'}"
        for architecture, files in release.deb.items():
            for file in files:
                yield f"  deb {architecture}: {file.path}"
                yield f"    sha256 {file.sha256}"
                yield f"    {file.proof.kind}: {file.proof.evidence}"
        yield from _build_lines(release)
        for image in release.images:
            yield f"  image: {image.reference}"


def _build_lines(release: Release) -> Iterator[str]:
    build = release.gomod
    if build is None:
        return
    vouched = {
        "sumdb": "the public checksum database vouches for it",
        "pinned-by-us": "unknown to the public checksum database; the first download was believed",
    }
    yield f"  gomod: {build.module} {build.version} {build.sum}"
    yield f"    {vouched[build.vouched]}"
    others = len(build.pinned_by_us)
    yield f"    dependencies it doesn't vouch for: {others or 'none'}"
    for module in build.pinned_by_us:
        yield f"      {module}"
    if build.note:
        yield f"    note: {build.note}"
    for built in build.built:
        yield f"    on record: {built.architecture}, {built.toolchain}"
        for name, sha256 in built.sha256.items():
            yield f"      {sha256} {name}"


def verify_lock(lock: Lock, wanted: Components) -> list[Problem]:
    """Compare the lock with components.yaml and with the Go modules that are committed."""
    return check_lock(lock, wanted, gomodules_dir=GOMODULES_DIR)


def verify_store(store: Store) -> list[Problem]:
    """Hash every file of the store; what is damaged is thrown away, so that it comes anew."""
    damaged = store.damaged()
    for path in damaged:
        store.discard(path.name)
    return [
        Problem("a file of the store is damaged and was thrown away", where=str(path),
                hint="the next bake gets it again")
        for path in damaged
    ]  # fmt: skip
