# SPDX-License-Identifier: Apache-2.0
"""Which Debian archive does a host install from?"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubekiln.errors import ConfigError
from pipeline.apt import Archives, debian_mirror, host_archives

ONE_LINE = "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian trixie main\n"
DEB822 = """\
# made by an installer
Types: deb deb-src
URIs: http://m.example/pub/debian/
Suites: trixie trixie-updates
Components: main

Types: deb
URIs:
 http://m.example/pub/debian-security
Suites: trixie-security
Components: main
"""
DISABLED = "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: x\nComponents: main\n"
UBUNTU = (
    "deb http://archive.example/ubuntu noble main\n"
    "deb http://dl.example/linux/debian/x y z\n"
    "deb http://vm.example/virtualbox/debian bookworm contrib\n"
    "deb https://dl.example/caddy/deb/debian any-version main\n"
)
THIRD = "Types: deb\nURIs: https://ci.example/debian\nSuites: binary/\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "sources.list",
            ONE_LINE,
            Archives("http://m.example/debian", "http://m.example/debian-security"),
        ),
        (
            "sources.list.d/debian.sources",
            DEB822,
            Archives("http://m.example/pub/debian", "http://m.example/pub/debian-security"),
        ),
        ("sources.list.d/off.sources", DISABLED, Archives(None, None)),
        ("sources.list.d/a.list", UBUNTU, Archives(None, None)),
        ("sources.list.d/a.sources", THIRD, Archives(None, None)),
        ("sources.list.d/a.list.bak", ONE_LINE, Archives(None, None)),
        ("sources.list", "# " + ONE_LINE, Archives(None, None)),
    ],
    ids=[
        "one line",
        "deb822",
        "disabled",
        "not Debian",
        "not Debian's",
        "not a source",
        "commented out",
    ],
)
def test_the_archive_is_read_from_the_hosts_sources(
    tmp_path: Path, name: str, text: str, expected: Archives
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)

    assert host_archives(tmp_path) == expected


def test_the_archives_of_a_cloud_images_mirror_lists_are_read(tmp_path: Path) -> None:
    lists, sources = tmp_path / "mirrors", tmp_path / "sources.list.d"
    lists.mkdir()
    sources.mkdir()
    (lists / "debian.list").write_text(
        "# first that answers\n\nftp://m.example/debian\n"
        "https://m.example/debian\tpriority:1\nhttps://n.example/debian\n"
    )
    (lists / "debian-security.list").write_text("https://s.example/debian-security\n")
    (sources / "debian.sources").write_text(
        "".join(
            f"Types: deb deb-src\nURIs: {uri}.list\nSuites: trixie\nComponents: main\n\n"
            for uri in (
                "mirror+file:/etc/apt/mirrors/gone",
                "mirror+file:/etc/apt/mirrors/debian",
                "mirror+file:///etc/apt/mirrors/debian-security",
            )
        )
    )

    assert host_archives(tmp_path) == Archives(
        "https://m.example/debian", "https://s.example/debian-security"
    )


def test_a_host_without_a_debian_archive_is_told_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="apt.build_mirror"):
        debian_mirror(tmp_path, tmp_path / "none")


@pytest.mark.parametrize(
    ("sources", "main"),
    [(UBUNTU, "https://d.example/debian"), (ONE_LINE, "http://m.example/debian")],
    ids=["Ubuntu", "Debian"],
)
def test_another_distributions_packages_know_debians_archive(
    tmp_path: Path, sources: str, main: str
) -> None:
    (tmp_path / "sources.list").write_text(sources)
    info = tmp_path / "Debian.info"
    info.write_text(
        "Suite: {series}\nRepositoryType: deb\nBaseURI: https://d.example/debian/\n\n"
        "Suite: {series}-security\nBaseURI: https://s.example/\n"
    )

    found = debian_mirror(tmp_path, info)

    assert (found.main, found.security) == (main, f"{main}-security")
