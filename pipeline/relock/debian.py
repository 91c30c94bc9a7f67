# SPDX-License-Identifier: Apache-2.0
"""Which file of Debian is meant, and what hash does its signed index give it?"""

from __future__ import annotations

import hashlib
import lzma
import re
from collections.abc import Mapping
from pathlib import Path

import requests

from kubekiln.errors import ConfigError, IntegrityError
from pipeline.components import WantedDebian, fill_in
from pipeline.lock import Architecture, DebianFile, Proof
from pipeline.relock.openpgp import check_inline
from pipeline.sources.provider import Unreachable

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TIMEOUT_S = 60.0


class DebianIndex:
    """The signed index of one suite; what was read once is kept."""

    def __init__(self, mirror: str, scratch: Path, *, keyring: Path = KEYRING) -> None:
        self._mirror = mirror.rstrip("/")
        self._scratch = scratch
        self._keyring = keyring
        self._releases: dict[str, tuple[Mapping[str, str], str]] = {}
        self._lists: dict[str, str] = {}

    def resolve(self, wanted: WantedDebian, version: str, architecture: Architecture) -> DebianFile:
        """Find the pinned file; raises ConfigError if the suite has another version."""
        if wanted.source and wanted.file:
            path, sha256 = self._source_file(wanted, version)
        else:
            path, sha256 = self._package(wanted, version, architecture)
        signer = self._release(wanted.suite)[1]
        evidence = f"{_index_of(wanted)}, signed by the Debian key {signer}"
        proof = Proof(kind="apt-index", evidence=evidence)
        return DebianFile(path=path, sha256=sha256, files=wanted.files, proof=proof)

    def _package(
        self, wanted: WantedDebian, version: str, architecture: Architecture
    ) -> tuple[str, str]:
        text = self._list(wanted.suite, f"main/binary-{architecture}/Packages.xz")
        stanzas = _stanzas(text, wanted.package or "")
        for stanza in stanzas:
            if _field(stanza, "Version") == version:
                return _field(stanza, "Filename"), _field(stanza, "SHA256")
        raise _other_version(wanted.package or "", version, wanted.suite, stanzas)

    def _source_file(self, wanted: WantedDebian, version: str) -> tuple[str, str]:
        text = self._list(wanted.suite, "main/source/Sources.xz")
        name = fill_in(wanted.file, version)
        stanzas = _stanzas(text, wanted.source or "")
        for stanza in stanzas:
            section = stanza.partition("Checksums-Sha256:")[2]
            found = re.search(rf"^ ([0-9a-f]{{64}}) \d+ {re.escape(name)}$", section, re.MULTILINE)
            if found:
                return f"{_field(stanza, 'Directory')}/{name}", found.group(1)
        raise _other_version(wanted.source or "", version, wanted.suite, stanzas)

    def _release(self, suite: str) -> tuple[Mapping[str, str], str]:
        if suite not in self._releases:
            signed, content = self._scratch / f"{suite}.asc", self._scratch / f"{suite}.txt"
            signed.write_bytes(self._get(f"dists/{suite}/InRelease"))
            signer = check_inline(signed, content, self._keyring)
            section = content.read_text().partition("\nSHA256:\n")[2]
            entries = re.findall(r"^ ([0-9a-f]{64}) +\d+ (\S+)$", section, re.MULTILINE)
            self._releases[suite] = ({path: sha256 for sha256, path in entries}, signer)
        return self._releases[suite]

    def _list(self, suite: str, path: str) -> str:
        key = f"{suite}/{path}"
        if key not in self._lists:
            wanted = self._release(suite)[0].get(path)
            packed = self._get(f"dists/{suite}/{path}")
            if hashlib.sha256(packed).hexdigest() != wanted:
                raise IntegrityError(f"{path} of {suite} is not the one in the signed index")
            self._lists[key] = lzma.decompress(packed).decode()
        return self._lists[key]

    def _get(self, path: str) -> bytes:
        url = f"{self._mirror}/{path}"
        try:
            response = requests.get(url, timeout=_TIMEOUT_S)
            response.raise_for_status()
        except requests.RequestException as error:
            raise Unreachable(f"cannot get {url}: {error}") from error
        return response.content


def is_wanted(file: DebianFile, wanted: WantedDebian, version: str) -> bool:
    """Tell whether a pinned file is the one that is wanted, of the wanted suite."""
    place = Path(file.path)
    if wanted.source and wanted.file:
        is_it = place.parts[-2:] == (wanted.source, fill_in(wanted.file, version))
    else:
        is_it = place.name.startswith(f"{wanted.package}_{version}_")
    return is_it and file.proof.evidence.startswith(f"{_index_of(wanted)},")


def _index_of(wanted: WantedDebian) -> str:
    return f"index of {wanted.suite}/main"


def _stanzas(text: str, package: str) -> list[str]:
    found = re.finditer(rf"(?:\A|\n)Package: {re.escape(package)}\n.*?(?=\n\n|\Z)", text, re.DOTALL)
    return [match.group(0) for match in found]


def _field(stanza: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", stanza, re.MULTILINE)
    return found.group(1) if found else ""


def _other_version(package: str, version: str, suite: str, stanzas: list[str]) -> ConfigError:
    there = ", ".join(_field(s, "Version") for s in stanzas) or "none"
    return ConfigError(
        f"{suite} has no {package} {version}", hint=f"there is: {there}; change components.yaml"
    )
