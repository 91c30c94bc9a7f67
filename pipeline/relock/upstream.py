# SPDX-License-Identifier: Apache-2.0
"""What hash does an upstream artefact get in the lock, and why is it believed?

Tried in this order: the project's signature over the artefact, its changelog in a Go module, its
file of checksums; a project that publishes none of them is pinned by what comes, if asked to.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import requests

from kubekiln import progress
from kubekiln.errors import IntegrityError
from kubekiln.files import sha256_file
from pipeline.components import Changelog, WantedArtefact, fill_in
from pipeline.lock import Architecture, Artefact, Proof
from pipeline.relock.openpgp import check_detached, dearmor
from pipeline.sources.download import reason
from pipeline.sources.provider import Unreachable

ModuleSource = Callable[[str, str], Path]
"""Module and version → its directory, verified."""
_TIMEOUT_S = (10.0, 120.0)
_LENGTHS = {64: "sha256", 128: "sha512"}


@dataclass(frozen=True)
class Pin:
    """A hash and why it is believed."""

    algorithm: str
    digest: str
    proof: Proof


def resolve_upstream(
    wanted: WantedArtefact,
    version: str,
    architecture: Architecture,
    *,
    previous: tuple[Artefact, ...],
    module_source: ModuleSource,
    trust_first: bool,
) -> tuple[Artefact, ...]:
    """Pin the artefact. A pin that is there stays: a hash never changes by itself.

    Raises Unreachable if no evidence could be had.
    """
    url = fill_in(wanted.url, version, architecture)
    files = fill_in(wanted.files, version, architecture)
    if [a.url for a in previous] == [url]:
        return (previous[0].model_copy(update={"files": files}),)
    pin = _pin(wanted, version, architecture, url, module_source, trust_first)
    hashes = {pin.algorithm: pin.digest}
    return (Artefact.model_validate({"url": url, **hashes, "files": files, "proof": pin.proof}),)


def _pin(
    wanted: WantedArtefact,
    version: str,
    architecture: Architecture,
    url: str,
    module_source: ModuleSource,
    trust_first: bool,
) -> Pin:
    problems: list[str] = []
    ways: list[Callable[[], Pin]] = []
    if wanted.changelog:
        changelog = wanted.changelog
        ways.append(lambda: from_changelog(changelog, version, url, module_source))
    if wanted.signature:
        ways.append(lambda: _from_signature(wanted, version, url, module_source))
    if wanted.checksums:
        checksums = fill_in(wanted.checksums, version, architecture)
        ways.append(lambda: _from_checksums(checksums, url))
    if trust_first:
        ways.append(lambda: _from_first_download(url))
    for way in ways:
        try:
            return way()
        except Unreachable as error:
            problems.append(error.problems[0].what)
    said = "; ".join(problems) or "the project publishes no checksums"
    raise Unreachable(
        f"no evidence for {url}: {said}",
        hint="`--trust-first-download` pins what comes, and says so in the lock",
    )


def from_changelog(
    changelog: Changelog, version: str, url: str, module_source: ModuleSource
) -> Pin:
    """Find the hash beside the URL, in the changelog that a later patch release carries."""
    path = fill_in(changelog.path, version)
    head, _, patch = version.rpartition(".")
    if not patch.isdigit():
        raise Unreachable(f"{version} has no next patch release")
    later = f"v{head}.{int(patch) + 1}"
    text = (module_source(changelog.module, later) / path).read_text()
    found = re.search(rf"{re.escape(url)}\)?\s*\|\s*`?([0-9a-f]{{64,128}})\b", text)
    if not found or len(found.group(1)) not in _LENGTHS:
        raise Unreachable(f"{path} of {changelog.module} {later} has no hash of {url}")
    digest = found.group(1)
    where = f"{path} in the Go module {changelog.module} {later}"
    evidence = f"{where}, which the public checksum database vouches for"
    return Pin(_LENGTHS[len(digest)], digest, Proof(kind="changelog", evidence=evidence))


def _from_checksums(checksums: str, url: str) -> Pin:
    digest = find_checksum(_get(checksums).decode(errors="replace"), url.rpartition("/")[2])
    if digest is None:
        raise Unreachable(f"{checksums} has no checksum of {url.rpartition('/')[2]}")
    proof = Proof(kind="checksum-file", evidence=checksums)
    return Pin(_LENGTHS[len(digest)], digest, proof)


def find_checksum(text: str, name: str) -> str | None:
    """Find a file's hash in a file of checksums: `hash  name` lines, or a bare hash."""
    bare = re.fullmatch(r"\s*([0-9a-f]{64}|[0-9a-f]{128})\s*", text)
    if bare:
        return bare.group(1)
    pattern = rf"^([0-9a-f]{{64}}|[0-9a-f]{{128}})\s+\*?(?:\./)?(?:\S*/)?{re.escape(name)}\s*$"
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1) if found else None


def _from_signature(
    wanted: WantedArtefact, version: str, url: str, module_source: ModuleSource
) -> Pin:
    assert wanted.signature is not None
    signature = wanted.signature
    keys = module_source(signature.keyring_module, f"v{version}") / signature.keyring_path
    with tempfile.TemporaryDirectory(prefix="kubekiln-relock-") as scratch:
        directory = Path(scratch)
        signed, detached, keyring = (directory / n for n in ("artefact", "signature", "keyring"))
        detached.write_bytes(dearmor(_get(url + signature.suffix)))
        keyring.write_bytes(dearmor(keys.read_bytes()))
        signed.write_bytes(_get(url))
        key = check_detached(detached, signed, keyring)
        digest = sha256_file(signed)
    evidence = f"signed by {key}, a key in {signature.keyring_path} of {signature.keyring_module}"
    return Pin("sha256", digest, Proof(kind="signature", evidence=evidence))


def _from_first_download(url: str) -> Pin:
    with tempfile.TemporaryDirectory(prefix="kubekiln-relock-") as scratch:
        file = Path(scratch) / "artefact"
        file.write_bytes(_get(url))
        if file.read_bytes()[:64].lstrip().lower().startswith((b"<!doctype", b"<html")):
            raise IntegrityError(f"{url} gave a web page instead of the file")
        return Pin("sha256", sha256_file(file), Proof(kind="none"))


def _get(url: str) -> bytes:
    try:
        with progress.step(f"Reading {url}"):
            response = requests.get(url, timeout=_TIMEOUT_S)
            response.raise_for_status()
    except requests.RequestException as error:
        raise Unreachable(f"cannot get {url}: {reason(error)}") from error
    return response.content
