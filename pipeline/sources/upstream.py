# SPDX-License-Identifier: Apache-2.0
"""How does a component come from the project's own release site?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.elf import check_program
from pipeline.lock import Artefact, ProviderName
from pipeline.sources.download import download
from pipeline.sources.provider import Request
from pipeline.sources.unpack import unpack
from pipeline.store import input_digest


def get_from_origin(artefact: Artefact, archive: Path, request: Request) -> None:
    """Put the verified artefact at `archive`, from where the project publishes it."""
    download(
        artefact.url,
        archive,
        digest=artefact.digest,
        context=request.context,
        title=f"Downloading {request.title}",
    )


class Upstream:
    """Gets the project's artefacts and takes the files out of them."""

    name: ProviderName = "upstream"

    def __init__(self, get: Callable[[Artefact, Path, Request], None] = get_from_origin) -> None:
        self._get = get

    def offers(self, request: Request) -> bool:
        """Tell whether the lock pins upstream artefacts for the architecture."""
        return request.architecture in request.release.upstream

    def key(self, request: Request) -> str:
        """Digest the hashes and what is taken out; not the URL: a mirror gives the same."""
        artefacts = request.release.upstream[request.architecture]
        return input_digest(
            kind="artefact", artefacts=[(a.digest, sorted(a.files.items())) for a in artefacts]
        )

    def fetch(self, request: Request, directory: Path) -> Mapping[str, Path]:
        """Download, verify, unpack, and check that programs are for the architecture."""
        found: dict[str, Path] = {}
        for number, artefact in enumerate(request.release.upstream[request.architecture]):
            archive = directory / f"artefact-{number}"
            self._get(artefact, archive, request)
            part = directory / f"part-{number}"
            part.mkdir()
            found |= unpack(archive, artefact.files, part)
            archive.unlink()
        check_programs(found, request)
        return found


def check_programs(files: Mapping[str, Path], request: Request) -> None:
    """Refuse a program for another architecture; names with a dot are data (`x.tar.gz`)."""
    for name, path in files.items():
        if "." not in name:
            check_program(
                path, name=f"{request.component}: {name}", architecture=request.architecture
            )
