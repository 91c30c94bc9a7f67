# SPDX-License-Identifier: Apache-2.0
"""Does a mirror made on one host serve another that reaches nothing else?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import ConfigError, KubekilnError, StorageError
from pipeline.lock import Lock
from pipeline.mirroring import fill_mirror
from pipeline.sources.gomod import GoMod
from pipeline.sources.provider import Request
from pipeline.stages.fetch import Fetched, Fetcher, fetch_components
from pipeline.store import Store
from tests.support.file_server import Site, serving
from tests.support.locks import archive, artefact, lock_of, program, sha256

TOOL = program(text=b"tool")
OTHER = program(text=b"other")
ARCHIVE = archive({"tool": TOOL})
ROOTS = archive({"certs/a.crt": b"A"})
POOL = "pool/main/c/ca/ca_1.tar.gz"


@pytest.fixture
def site() -> Iterator[Site]:
    files = {"/v1/pkg.tar.gz": ARCHIVE, f"/debian/{POOL}": ROOTS}
    with serving(Site(files=files)) as running:
        yield running


def build(*, built: bytes | None) -> dict[str, Any]:
    """Make the lock's entry of a Go build, with or without a result on record."""
    toolchain = lock_of({}).toolchains.go.version
    entry: dict[str, Any] = {
        "directory": "tool/1.0",
        "module": "example.com/tool",
        "version": "v1.0.0",
        "sum": "h1:x",
        "vouched": "sumdb",
        "mod_sha256": "0" * 64,
        "packages": {"tool": "example.com/tool"},
    }
    if built is not None:
        entry["built"] = [
            {
                "toolchain": f"go{toolchain}",
                "architecture": "amd64",
                "sha256": {"tool": sha256(built)},
            }
        ]
    return entry


def make_lock(site: Site) -> Lock:
    return lock_of(
        {
            "pkg": {"1": {"upstream": {"amd64": [
                artefact(f"{site.url}/v1/pkg.tar.gz", ARCHIVE, {"tool": "tool"})
            ]}}},
            "roots": {"1": {"deb": {"amd64": [
                {"path": POOL, "sha256": sha256(ROOTS), "files": {"roots.crt": "certs/*.crt"},
                 "proof": {"kind": "apt-index"}}
            ]}}},
        }
    )  # fmt: skip


def fill(lock: Lock, tmp_path: Path, site: Site, **more: Any) -> dict[str, bool]:
    done = fill_mirror(
        lock,
        tmp_path / "mirror",
        architectures=["amd64"],
        store=Store(tmp_path / "here"),
        debian_mirror=f"{site.url}/debian",
        **more,
    )
    return {mirrored.place: mirrored.new for mirrored in done}


def fetch(lock: Lock, wanted: dict[str, str], tmp_path: Path) -> dict[str, Path]:
    got = fetch_components(
        lock, wanted, architecture="amd64", providers=["auto"],
        store=Store(tmp_path / "there"), mirror=str(tmp_path / "mirror"),
    )  # fmt: skip
    assert {f.provider for f in got.values()} == {"mirror"}
    return {name: path for f in got.values() for name, path in f.files.items()}


def test_a_filled_mirror_gives_everything(site: Site, tmp_path: Path) -> None:
    lock = make_lock(site)

    places = fill(lock, tmp_path, site)
    site.files.clear()  # from here on nothing else is reached
    files = fetch(lock, {"pkg": "1", "roots": "1"}, tmp_path)

    host = site.url.removeprefix("http://")
    assert places == {f"{host}/v1/pkg.tar.gz": True, f"debian/{POOL}": True}
    assert files["tool"].read_bytes() == TOOL
    assert files["roots.crt"].read_bytes() == b"A"


def test_filling_again_downloads_only_what_is_damaged(site: Site, tmp_path: Path) -> None:
    lock = make_lock(site)
    fill(lock, tmp_path, site)
    damaged = tmp_path / "mirror" / "debian" / POOL
    damaged.write_bytes(b"rot")

    places = fill(lock, tmp_path, site)

    assert [place for place, new in places.items() if new] == [f"debian/{POOL}"]


def test_what_cannot_be_had_is_said_after_the_rest_was_done(site: Site, tmp_path: Path) -> None:
    del site.files["/v1/pkg.tar.gz"]

    with pytest.raises(KubekilnError, match="pkg 1 .* could not be reached"):
        fill(make_lock(site), tmp_path, site)

    assert (tmp_path / "mirror" / "debian" / POOL).is_file()


def test_a_file_in_the_mirrors_place_is_left_alone(site: Site, tmp_path: Path) -> None:
    (tmp_path / "mirror").write_text("mine")

    with pytest.raises(StorageError, match="File exists"):
        fill(make_lock(site), tmp_path, site)

    assert site.requests == []
    assert (tmp_path / "mirror").read_text() == "mine"


def test_an_unknown_component_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no component 'nothing'"):
        fill(make_lock(site), tmp_path, site, components=["nothing"])


def put_built(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "mirror" / "kubekiln" / "tool" / "1.0" / "amd64" / "tool"
    place.parent.mkdir(parents=True)
    place.write_bytes(content)


def test_a_program_built_elsewhere_is_taken_by_its_recorded_hash(tmp_path: Path) -> None:
    lock = lock_of({"tool": {"1.0": {"gomod": build(built=TOOL)}}})
    put_built(tmp_path, TOOL)

    assert fetch(lock, {"tool": "1.0"}, tmp_path)["tool"].read_bytes() == TOOL


def test_a_mirror_of_programs_makes_no_image_of_them(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = {"reference": "tool:1", "entrypoint": ["/tool"], "binary": "tool",
             "ca_certificates": "1"}  # fmt: skip
    entry = {"gomod": build(built=TOOL), "images": [image]}
    lock = lock_of({"tool": {"1.0": entry}, "ca-certificates": {"1": {}}})
    made = tmp_path / sha256(TOOL)
    made.write_bytes(TOOL)
    found = Fetched("tool", "1.0", "amd64", "gomod", {"tool": made}, {})
    monkeypatch.setattr(Fetcher, "_from_store", lambda *_: found)

    places = fill(lock, tmp_path, site, components=["tool"])

    assert places == {"kubekiln/tool/1.0/amd64/tool": True}


def test_a_program_that_nobody_would_take_from_a_mirror_is_not_built_for_it(
    site: Site, tmp_path: Path
) -> None:
    lock = lock_of({"tool": {"1.0": {"gomod": build(built=None)}}})

    with pytest.raises(KubekilnError, match="no hash of a build of tool 1.0 .*is on record"):
        fill(lock, tmp_path, site, components=["tool"])


def test_a_program_that_is_not_the_recorded_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_of({"tool": {"1.0": {"gomod": build(built=TOOL)}}})
    put_built(tmp_path, program(text=b"evil"))
    monkeypatch.setattr(GoMod, "offers", lambda *_: False)

    with pytest.raises(KubekilnError) as caught:
        fetch(lock, {"tool": "1.0"}, tmp_path)

    assert "sha256 of the mirror's kubekiln/tool/1.0/amd64/tool is" in str(caught.value)


def test_a_build_of_before_there_was_a_record_is_held_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    made: list[bytes] = []

    def make(_self: GoMod, _request: Request, directory: Path) -> dict[str, Path]:
        made.append(TOOL if made else OTHER)
        (directory / "tool").write_bytes(made[-1])
        return {"tool": directory / "tool"}

    monkeypatch.setattr(GoMod, "fetch", make)

    def fetched(built: bytes | None) -> bytes:
        lock = lock_of({"tool": {"1.0": {"gomod": build(built=built)}}})
        got = fetch_components(
            lock, {"tool": "1.0"}, architecture="amd64", providers=["gomod"], store=store
        )
        return got["tool"].files["tool"].read_bytes()

    assert fetched(None) == fetched(None) == OTHER
    assert fetched(TOOL) == TOOL
    assert made == [OTHER, TOOL]


def test_without_a_record_a_mirror_offers_no_built_program() -> None:
    with_record = lock_of({"tool": {"1.0": {"gomod": build(built=TOOL)}}})
    without = lock_of({"tool": {"1.0": {"gomod": build(built=None)}}})

    assert with_record.release("tool", "1.0").providers("amd64") == ("mirror", "gomod")
    assert without.release("tool", "1.0").providers("amd64") == ("gomod",)
