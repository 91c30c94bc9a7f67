# SPDX-License-Identifier: Apache-2.0
"""Which Debian archive does this host install from? (Read from its own configuration.)"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import ConfigError

# An archive's path by Debian's convention; hosts that carry several distributions have it last.
_DEBIAN = re.compile(r"^https?://[^\s/]+/(?:\S*/)?debian/?$")
_DEBIAN_SECURITY = re.compile(r"^https?://[^\s/]+/(?:\S*/)?debian-security/?$")

# Others' packages for Debian are at such addresses too: an archive of Debian's has these.
_SUITE = re.compile(
    r"(?:bullseye|bookworm|trixie|forky|sid|oldstable|stable|testing|unstable)"
    r"(?:-updates|-security|-backports|/updates)?"
)
_AREA = "main"

_MIRROR_FILE = "mirror+file:"
_ETC = Path("/etc/apt")
# What python-apt-common, part of every Ubuntu, knows of Debian (python-apt's aptsources.distinfo).
_DEBIAN_INFO = Path("/usr/share/python-apt/templates/Debian.info")


@dataclass(frozen=True)
class Archives:
    """Where Debian's packages, and its security updates, can be had."""

    main: str | None
    security: str | None


def host_archives(etc: Path = _ETC) -> Archives:
    """Read the host's apt sources; on a host that isn't Debian both may be None."""
    return _archives_among(list(_uris(etc)))


def _archives_among(uris: list[str]) -> Archives:
    main = next((u.rstrip("/") for u in uris if _DEBIAN.match(u)), None)
    security = next((u.rstrip("/") for u in uris if _DEBIAN_SECURITY.match(u)), None)
    if main and not security:
        security = archive_beside(main)
    return Archives(main, security)


def archive_beside(main: str) -> str:
    """Name the archive of security updates by Debian's convention."""
    return f"{main.rstrip('/').removesuffix('/debian')}/debian-security"


@dataclass(frozen=True)
class Mirror:
    """A Debian archive that is known to be there for this host."""

    main: str
    security: str


def debian_mirror(etc: Path = _ETC, debian_info: Path = _DEBIAN_INFO) -> Mirror:
    """Give the archive of the host's apt sources, else the one that its own packages know.

    Raises ConfigError if neither names one.
    """
    found = _archives_among([*_uris(etc), *_known_uris(debian_info)])
    if found.main is None or found.security is None:
        raise ConfigError(
            "this host's apt sources name no Debian archive",
            where=str(etc),
            hint="set apt.build_mirror in the image's configuration, or install python-apt-common",
        )
    return Mirror(found.main, found.security)


def _uris(etc: Path) -> Iterator[str]:
    for uri in _written_uris(etc):
        yield from _mirrors_in(uri, etc) if uri.startswith(_MIRROR_FILE) else [uri]


def _mirrors_in(uri: str, etc: Path) -> Iterator[str]:
    """Read the archives that a `mirror+file:` names, as Debian's cloud images do.

    A line is a URI and, after a tab, what it is good for: apt-transport-mirror(1).
    """
    path = Path(re.sub("^/+", "/", uri.removeprefix(_MIRROR_FILE)))
    # `etc` may be that of another root.
    path = etc / path.relative_to(_ETC) if path.is_relative_to(_ETC) else path
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            yield from line.partition("#")[0].split()[:1]


def _known_uris(debian_info: Path) -> Iterator[str]:
    """Read the archives of `BaseURI:` lines."""
    if debian_info.is_file():
        for line in debian_info.read_text(errors="replace").splitlines():
            yield from line.split()[1:] if line.startswith("BaseURI:") else ()


def _written_uris(etc: Path) -> Iterator[str]:
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".list":
            yield from _one_line_uris(text)
        elif path.suffix == ".sources":
            yield from _deb822_uris(text)


def _one_line_uris(text: str) -> Iterator[str]:
    """Parse `deb [options] URI suite components…`."""
    for line in text.splitlines():
        found = re.match(r"^\s*deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)([^#]*)", line)
        if found and _is_debians([found[2]], found[3].split()):
            yield found[1]


def _is_debians(suites: list[str], areas: list[str]) -> bool:
    return _AREA in areas and any(_SUITE.fullmatch(suite) for suite in suites)


def _deb822_uris(text: str) -> Iterator[str]:
    """Parse stanzas of `Types:`, `URIs:`, …; values may go on in indented lines."""
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        key = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] not in (" ", "\t") and ":" in line:
                key, _, line = line.partition(":")
                key = key.strip().lower()
            fields.setdefault(key, []).extend(line.split())
        enabled = fields.get("enabled", ["yes"])[:1] != ["no"]
        is_debians = _is_debians(fields.get("suites", []), fields.get("components", []))
        if enabled and is_debians and "deb" in fields.get("types", []):
            yield from fields.get("uris", [])
