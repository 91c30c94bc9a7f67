# SPDX-License-Identifier: Apache-2.0
"""Does every component come from the first provider that can give it, verified, once?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kubekiln.errors import ConfigError, KubekilnError
from pipeline.lock import Lock
from pipeline.sources.provider import Cancelled
from pipeline.stages.fetch import Fetched, fetch_components
from pipeline.store import Store
from tests.support.file_server import Site, serving
from tests.support.locks import archive, artefact, lock_of, program

TOOL = program(text=b"tool")
OTHER = program(text=b"other")
ARCHIVE = archive({"pkg/bin/tool": TOOL, "pkg/bin/other": OTHER, "pkg/README": b"read me"})
FILES = {"tool": "pkg/bin/tool", "other": "./pkg/bin/other"}
PATH = "/releases/v1.0/pkg.tar.gz"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(files={PATH: ARCHIVE})) as running:
        yield running


def lock_for(site: Site, **entry: Any) -> Lock:
    upstream = artefact(site.url + PATH, ARCHIVE, FILES) | entry
    return lock_of({"pkg": {"1.0": {"upstream": {"amd64": [upstream]}}}})


def fetch(
    lock: Lock, tmp_path: Path, wanted: dict[str, str] | None = None, **more: Any
) -> dict[str, Fetched]:
    options: dict[str, Any] = {"architecture": "amd64", "providers": ["auto"]} | more
    return fetch_components(
        lock, wanted or {"pkg": "1.0"}, store=Store(tmp_path / "store"), **options
    )


def test_programs_are_taken_out_of_the_archive_executable(site: Site, tmp_path: Path) -> None:
    got = fetch(lock_for(site), tmp_path)["pkg"]

    assert got.provider == "upstream"
    assert {name: path.read_bytes() for name, path in got.files.items()} == {
        "tool": TOOL,
        "other": OTHER,
    }
    assert got.files["tool"].stat().st_mode & 0o111
    assert got.sha256["tool"] == got.files["tool"].name


def test_a_second_fetch_asks_nobody(site: Site, tmp_path: Path) -> None:
    first = fetch(lock_for(site), tmp_path)["pkg"]
    asked = len(site.requests)

    second = fetch(lock_for(site), tmp_path)["pkg"]

    assert (first.reused, second.reused) == (False, True)
    assert second.files == first.files
    assert len(site.requests) == asked


def test_nothing_but_results_is_left_in_the_store(site: Site, tmp_path: Path) -> None:
    fetch(lock_for(site), tmp_path)

    assert list((tmp_path / "store" / "tmp").iterdir()) == []
    contents = [p for p in (tmp_path / "store" / "sha256").rglob("*") if p.is_file()]
    assert len([p for p in contents if not p.suffix]) == 2


def test_a_sha512_pin_is_checked(site: Site, tmp_path: Path) -> None:
    lock = lock_for(site, sha256=None, sha512="0" * 128)

    with pytest.raises(KubekilnError, match="cannot get pkg 1.0") as caught:
        fetch(lock, tmp_path)

    assert "sha512" in str(caught.value)


def test_a_program_for_another_architecture_is_refused(site: Site, tmp_path: Path) -> None:
    content = archive({"pkg/bin/tool": program("arm64"), "pkg/bin/other": OTHER})
    site.files[PATH] = content
    upstream = artefact(site.url + PATH, content, FILES)
    lock = lock_of({"pkg": {"1.0": {"upstream": {"amd64": [upstream]}}}})

    with pytest.raises(KubekilnError, match="cannot get") as caught:
        fetch(lock, tmp_path)

    assert "a program for arm64, wanted is one for amd64" in str(caught.value)
    assert not (tmp_path / "store" / "sha256").exists()


def test_an_archive_without_the_program_is_refused(site: Site, tmp_path: Path) -> None:
    lock = lock_for(site, files={"tool": "pkg/bin/tool", "gone": "pkg/bin/gone"})

    with pytest.raises(KubekilnError) as caught:
        fetch(lock, tmp_path)

    assert "has no pkg/bin/gone" in str(caught.value)


def fill_mirror(directory: Path, site: Site, content: bytes = ARCHIVE) -> Path:
    file = directory / urlsplit(site.url).netloc / PATH.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return directory


def test_a_mirror_directory_is_used_first(site: Site, tmp_path: Path) -> None:
    mirror = fill_mirror(tmp_path / "mirror", site)

    got = fetch(lock_for(site), tmp_path, mirror=str(mirror))["pkg"]

    assert got.provider == "mirror"
    assert site.requests == []


def test_a_mirror_url_has_the_same_layout(site: Site, tmp_path: Path) -> None:
    host = urlsplit(site.url).netloc
    with serving(Site(files={f"/files/{host}{PATH}": ARCHIVE})) as mirror:
        got = fetch(lock_for(site), tmp_path, mirror=f"{mirror.url}/files/")["pkg"]

    assert got.provider == "mirror"
    assert site.requests == []


def test_a_mirror_that_lacks_a_file_is_passed_over(site: Site, tmp_path: Path) -> None:
    got = fetch(lock_for(site), tmp_path, mirror=str(tmp_path))["pkg"]

    assert got.provider == "upstream"


def test_a_mirror_with_other_bytes_is_passed_over(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = fill_mirror(tmp_path / "mirror", site, content=b"evil")

    got = fetch(lock_for(site), tmp_path, mirror=str(mirror))["pkg"]

    assert got.provider == "upstream"
    assert "not from mirror: sha256" in capsys.readouterr().err


def test_the_credentials_of_a_mirror_are_not_said(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Site(files={})) as mirror:
        url = mirror.url.replace("://", "://ci:token@")
        fetch(lock_for(site), tmp_path, mirror=url)

    said = capsys.readouterr().err
    assert "not from mirror" in said
    assert "token" not in said


def test_when_nobody_can_give_it_everything_tried_is_said(site: Site, tmp_path: Path) -> None:
    site.files.clear()

    with pytest.raises(KubekilnError) as caught:
        fetch(lock_for(site), tmp_path, mirror=str(tmp_path / "empty"))

    text = str(caught.value)
    assert "cannot get pkg 1.0 (amd64) from any of its providers" in text
    assert "the mirror has no" in text
    assert "HTTP 404" in text


def test_only_the_providers_asked_for_are_used(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no provider of gomod has pkg 1.0") as caught:
        fetch(lock_for(site), tmp_path, providers=["gomod"])

    assert "upstream" in str(caught.value)


def test_an_unknown_provider_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no provider named 'ftp'"):
        fetch(lock_for(site), tmp_path, providers=["ftp"])


def test_what_the_lock_lacks_is_said_at_once_and_before_any_work(
    site: Site, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch(lock_for(site), tmp_path, {"pkg": "2.0", "nothing": "1"})

    text = str(caught.value)
    assert "the lock has no component 'nothing'" in text
    assert "the lock has no pkg 2.0" in text
    assert "locked: 1.0" in text
    assert site.requests == []


def test_an_architecture_that_is_not_locked_is_said(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no arm64 pkg 1.0"):
        fetch(lock_for(site), tmp_path, architecture="arm64")


def test_a_cancelled_fetch_ends(site: Site, tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()

    with pytest.raises(Cancelled):
        fetch(lock_for(site), tmp_path, cancel=cancel)


def test_two_fetches_at_once_download_once(site: Site, tmp_path: Path) -> None:
    lock, results = lock_for(site), []
    threads = [
        threading.Thread(target=lambda: results.append(fetch(lock, tmp_path)["pkg"].files))
        for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 4
    assert all(files == results[0] for files in results)
    assert len(site.requests) == 1


def test_a_component_with_an_image_gives_the_same_image_every_time(
    site: Site, tmp_path: Path
) -> None:
    image = {"reference": "registry.k8s.io/tool:1.0", "entrypoint": ["/tool"], "binary": "tool"}
    upstream = artefact(site.url + PATH, ARCHIVE, FILES)
    lock = lock_of({"pkg": {"1.0": {"upstream": {"amd64": [upstream]}, "images": [image]}}})

    first = fetch(lock, tmp_path)["pkg"]
    second = fetch(lock, tmp_path / "elsewhere")["pkg"]

    assert list(first.images) == ["registry.k8s.io/tool:1.0"]
    assert [p.name for p in first.images.values()] == [p.name for p in second.images.values()]
