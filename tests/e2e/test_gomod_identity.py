# SPDX-License-Identifier: Apache-2.0
"""Do two builds from Go modules, which share nothing, give the same bytes: those on record?"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubekiln.paths import cache_dir
from pipeline.lock import Lock
from pipeline.sources.toolchain import host_architecture, install_toolchain
from pipeline.stages.fetch import fetch_components
from pipeline.store import Store
from tests.support.locks import real_lock

pytestmark = [pytest.mark.network, pytest.mark.e2e]


def only(component: str, *names: str) -> Lock:
    """Reduce the lock to a few programs of one component; their recorded hashes stay."""
    lock = real_lock()
    version, release = next(iter(lock.components[component].items()))
    assert release.gomod is not None
    packages = {name: release.gomod.packages[name] for name in names}
    build = release.gomod.model_copy(update={"packages": packages})
    small = release.model_copy(update={"gomod": build})
    return lock.model_copy(update={"components": {component: {version: small}}})


def build_in(directory: Path, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Build with caches that are empty but for the compiler."""
    toolchains = cache_dir() / "toolchains"
    (directory / "kubekiln").mkdir(parents=True)
    (directory / "kubekiln" / "toolchains").symlink_to(toolchains)
    component, releases = next(iter(lock.components.items()))
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory))
        got = fetch_components(
            lock,
            {component: next(iter(releases))},
            architecture="amd64",
            providers=["gomod"],
            store=Store(directory / "store"),
        )
    return dict(got[component].sha256)


def test_two_builds_that_share_nothing_are_identical_and_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = only("cni-plugins", "loopback")
    toolchain = install_toolchain(lock.toolchains.go)
    assert (toolchain / "go" / "bin" / "go").is_file(), host_architecture()

    first = build_in(tmp_path / "a" / "one", lock, monkeypatch)
    second = build_in(tmp_path / "b" / "deeper" / "two", lock, monkeypatch)

    assert first == second
    build = next(iter(lock.components["cni-plugins"].values())).gomod
    assert build is not None
    assert {name: build.built[0].sha256[name] for name in first} == first
