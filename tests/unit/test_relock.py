# SPDX-License-Identifier: Apache-2.0
"""Is a new pin believed only for the reason that the lock then gives?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import ConfigError, IntegrityError
from pipeline.components import (
    Changelog,
    Signature,
    WantedArtefact,
    WantedComponent,
    WantedDebian,
)
from pipeline.lock import Artefact, DebianFile, Proof, Release
from pipeline.relock.debian import DebianIndex
from pipeline.relock.gomod import unknown_to_sumdb
from pipeline.relock.openpgp import check_detached, dearmor
from pipeline.relock.update import Options, _Updater
from pipeline.relock.upstream import find_checksum, from_changelog, resolve_upstream
from pipeline.sources.provider import Unreachable
from tests.support.file_server import Site, serving

DATA = Path(__file__).parent / "data" / "signed"
HASH = "a" * 64
NAME = "tool-1.0-amd64.tar.gz"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as running:
        yield running


def no_module(module: str, version: str) -> Path:
    raise Unreachable(f"no {module} {version}")


def resolve(wanted: dict[str, Any], site: Site, **more: Any) -> Artefact:
    options: dict[str, Any] = {
        "previous": (), "module_source": no_module, "trust_first": False,
    } | more  # fmt: skip
    url = site.url + "/v{version}/tool-{version}-{arch}.tar.gz"
    artefact = WantedArtefact.model_validate({"url": url, "files": {"tool": "."}} | wanted)
    return resolve_upstream(artefact, "1.0", "amd64", **options)[0]


@pytest.mark.parametrize(
    "text",
    [
        f"{HASH}  {NAME}\n",
        f"{HASH} *{NAME}\r\n",
        f"{'b' * 64}  other\n{HASH}  ./dist/{NAME}\n",
        f"{HASH}\n",
    ],
    ids=["two spaces", "binary mark", "in a directory", "bare"],
)
def test_a_checksum_is_found(text: str) -> None:
    assert find_checksum(text, NAME) == HASH


@pytest.mark.parametrize("text", ["", "<html>", f"{HASH}  x{NAME}", f"{'a' * 40}  {NAME}"])
def test_what_is_no_checksum_of_the_file_is_not_taken(text: str) -> None:
    assert find_checksum(text, NAME) is None


def test_the_projects_checksum_file_is_named_as_the_proof(site: Site) -> None:
    site.files["/v1.0/SHA256SUMS"] = f"{HASH}  {NAME}\n".encode()

    pinned = resolve({"checksums": site.url + "/v{version}/SHA256SUMS"}, site)

    assert pinned.sha256 == HASH
    assert pinned.proof == Proof(kind="checksum-file", evidence=f"{site.url}/v1.0/SHA256SUMS")


def test_a_pin_that_is_there_is_kept_and_nobody_asked(site: Site) -> None:
    old = Artefact(
        url=f"{site.url}/v1.0/{NAME}", sha256="c" * 64, files={"old": "."},
        proof=Proof(kind="independent", evidence="somebody"),
    )  # fmt: skip

    pinned = resolve({"checksums": site.url + "/SHA256SUMS"}, site, previous=(old,))

    assert pinned.sha256 == "c" * 64
    assert pinned.proof.kind == "independent"
    assert pinned.files == {"tool": "."}
    assert site.requests == []


def test_the_first_download_is_believed_only_if_asked(site: Site) -> None:
    site.files[f"/v1.0/{NAME}"] = b"content"

    with pytest.raises(Unreachable, match="publishes no checksums") as caught:
        resolve({}, site)
    assert "--trust-first-download" in str(caught.value)

    pinned = resolve({}, site, trust_first=True)
    assert pinned.sha256 == hashlib.sha256(b"content").hexdigest()
    assert pinned.proof.kind == "none"


def test_a_web_page_is_not_pinned(site: Site) -> None:
    site.files[f"/v1.0/{NAME}"] = b"<!doctype html>log in"

    with pytest.raises(IntegrityError, match="web page"):
        resolve({}, site, trust_first=True)


def changelog(tmp_path: Path, text: str) -> Any:
    (tmp_path / "CHANGELOG-1.37.md").write_text(text)

    def source(module: str, version: str) -> Path:
        assert (module, version) == ("k8s.io/kubernetes", "v1.37.2")
        return tmp_path

    return source


def test_a_changelog_of_the_next_release_is_a_proof(tmp_path: Path) -> None:
    url = "https://dl.k8s.io/v1.37.1/kubernetes-server-linux-amd64.tar.gz"
    text = f"[x.tar.gz]({url[:-1]}) | {'0' * 128}\n[x.tar.gz]({url}) | {'1' * 128}\n"
    wanted = Changelog(module="k8s.io/kubernetes", path="CHANGELOG-{major}.{minor}.md")

    pin = from_changelog(wanted, "1.37.1", url, changelog(tmp_path, text))

    assert (pin.algorithm, pin.digest) == ("sha512", "1" * 128)
    assert "k8s.io/kubernetes v1.37.2" in pin.proof.evidence


def test_a_changelog_without_the_artefact_is_none(tmp_path: Path) -> None:
    wanted = Changelog(module="k8s.io/kubernetes", path="CHANGELOG-{major}.{minor}.md")

    with pytest.raises(Unreachable, match="has no hash"):
        from_changelog(wanted, "1.37.1", "https://x/y.tar.gz", changelog(tmp_path, "# nothing"))


def signed_site(site: Site, content: bytes | None = None) -> dict[str, Any]:
    original = (DATA / "artefact").read_bytes()
    site.files[f"/v1.0/{NAME}"] = original if content is None else content
    site.files[f"/v1.0/{NAME}.asc"] = (DATA / "artefact.asc").read_bytes()
    return {"signature": Signature(keyring_module="m", keyring_path="keyring.asc")}


@pytest.mark.processes("gpgv")
def test_a_good_signature_is_a_proof(site: Site) -> None:
    pinned = resolve(signed_site(site), site, module_source=lambda *_: DATA)

    assert pinned.sha256 == hashlib.sha256((DATA / "artefact").read_bytes()).hexdigest()
    assert pinned.proof.kind == "signature"
    assert "keyring.asc of m" in pinned.proof.evidence


@pytest.mark.processes("gpgv")
def test_a_bad_signature_stops_the_pin(site: Site) -> None:
    wanted = signed_site(site, b"a program, changed\n")

    with pytest.raises(IntegrityError, match="no good signature"):
        resolve(wanted, site, module_source=lambda *_: DATA, trust_first=True)


@pytest.mark.processes("gpgv")
def test_a_key_that_is_not_in_the_keyring_is_not_believed(tmp_path: Path) -> None:
    signature, keyring = tmp_path / "sig", tmp_path / "keys"
    signature.write_bytes(dearmor((DATA / "artefact.asc").read_bytes()))
    keyring.write_bytes(b"")

    with pytest.raises(IntegrityError, match="no good signature on artefact"):
        check_detached(signature, DATA / "artefact", keyring)


def debian_site(site: Site) -> Site:
    for path, name in (
        ("InRelease", "InRelease"),
        ("main/binary-amd64/Packages.xz", "Packages.xz"),
        ("main/source/Sources.xz", "Sources.xz"),
    ):
        site.files[f"/dists/trixie/{path}"] = (DATA / name).read_bytes()
    return site


def debian_index(site: Site, tmp_path: Path) -> DebianIndex:
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(dearmor((DATA / "keyring.asc").read_bytes()))
    return DebianIndex(debian_site(site).url, tmp_path, keyring=keyring)


CA = WantedDebian(suite="trixie", package="ca-certificates", files={"roots.crt": "a/*.crt"})
SECCOMP = WantedDebian(
    suite="trixie", source="libseccomp", file="libseccomp_{version}.orig.tar.gz",
    files={"libseccomp.tar.gz": "."},
)  # fmt: skip


@pytest.mark.processes("gpgv")
def test_a_debian_package_is_found_in_the_signed_index(site: Site, tmp_path: Path) -> None:
    found = debian_index(site, tmp_path).resolve(CA, "20250419", "amd64")

    assert found.path == "pool/main/c/ca-certificates/ca-certificates_20250419_all.deb"
    assert found.sha256 == "2" * 64
    assert found.proof.kind == "apt-index"


@pytest.mark.processes("gpgv")
def test_a_debian_source_archive_is_found_in_the_signed_index(site: Site, tmp_path: Path) -> None:
    found = debian_index(site, tmp_path).resolve(SECCOMP, "2.6.0", "amd64")

    assert found.path == "pool/main/libs/libseccomp/libseccomp_2.6.0.orig.tar.gz"
    assert found.sha256 == "3" * 64


@pytest.mark.processes("gpgv")
def test_another_version_in_debian_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trixie has no ca-certificates 1") as caught:
        debian_index(site, tmp_path).resolve(CA, "1", "amd64")

    assert "there is: 20250419" in str(caught.value)


@pytest.mark.processes("gpgv")
def test_an_index_that_was_changed_is_refused(site: Site, tmp_path: Path) -> None:
    index = debian_index(site, tmp_path)
    path = "/dists/trixie/InRelease"
    site.files[path] = site.files[path].replace(b"stable", b"stabil")

    with pytest.raises(IntegrityError, match="no good signature"):
        index.resolve(CA, "20250419", "amd64")


@pytest.mark.processes("gpgv")
def test_a_package_list_that_is_not_the_signed_one_is_refused(site: Site, tmp_path: Path) -> None:
    index = debian_index(site, tmp_path)
    lists = "/dists/trixie/main"
    site.files[f"{lists}/binary-amd64/Packages.xz"] = site.files[f"{lists}/source/Sources.xz"]

    with pytest.raises(IntegrityError, match="not the one in the signed index"):
        index.resolve(CA, "20250419", "amd64")


def test_a_debian_pin_is_kept_for_as_long_as_the_same_file_is_wanted(tmp_path: Path) -> None:
    pinned = DebianFile(
        path="pool/main/c/ca-certificates/ca-certificates_1_all.deb", sha256="2" * 64,
        files={"old": "."}, proof=Proof(kind="apt-index", evidence="index of trixie/main, signed"),
    )  # fmt: skip
    new = pinned.model_copy(update={"sha256": "4" * 64})

    class Index(DebianIndex):
        def resolve(self, *_: object) -> DebianFile:
            return new

    updater = _Updater(Options(), tmp_path, [], index=Index("http://mirror", tmp_path))
    previous = Release(deb={"amd64": (pinned,), "arm64": (pinned,)})

    def pin(**changes: Any) -> DebianFile:
        wanted = WantedComponent(versions=("1",), deb=CA.model_copy(update=changes))
        return updater.release("ca-certificates", "1", wanted, previous).deb["amd64"][0]

    assert pin(files={"new": "."}) == pinned.model_copy(update={"files": {"new": "."}})
    assert pin(package="other") == new
    assert pin(suite="sid") == new


LOOKUP = "reading https://proxy.example/sumdb/sums.example/lookup"


@pytest.mark.parametrize(
    ("said", "modules"),
    [
        (f"go: a.io/b@v0.34.0-rc.2: verifying go.mod: a.io/b@v0.34.0-rc.2/go.mod: {LOOKUP}/"
         "a.io/b@v0.34.0-rc.2: 404 Not Found", ["a.io/b v0.34.0-rc.2"]),
        (f"\tc.io/d@v1.0.0: verifying module: c.io/d@v1.0.0: {LOOKUP}/c.io/d@v1.0.0: 410 Gone",
         ["c.io/d v1.0.0"]),
        ("e.io/f@v1.0.0: verifying module: checksum mismatch", []),
        ("e.io/f@v1.0.0: reading https://proxy.example/e.io/f/@v/v1.0.0.zip: 404 Not Found", []),
    ],
    ids=["go.mod", "module", "mismatch", "not served"],
)  # fmt: skip
def test_only_modules_that_the_checksum_database_lacks_are_exempted(
    said: str, modules: list[str]
) -> None:
    assert unknown_to_sumdb(f"{said}\n{said}\n") == modules
