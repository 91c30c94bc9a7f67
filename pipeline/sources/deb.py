# SPDX-License-Identifier: Apache-2.0
"""How does a file come from a Debian mirror: a package's content, or a source archive?

The pinned sha256 is what the signed index said when the pin was made, so that any mirror will do:
the one of the host's own apt sources unless another is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kubekiln.errors import ConfigError
from pipeline.apt import debian_mirror
from pipeline.lock import ProviderName
from pipeline.sources.download import download
from pipeline.sources.provider import Request, Unreachable
from pipeline.sources.unpack import unpack
from pipeline.sources.upstream import check_programs
from pipeline.store import input_digest


class Deb:
    """Takes files out of a Debian mirror."""

    name: ProviderName = "deb"

    def offers(self, request: Request) -> bool:
        """Tell whether the lock pins a Debian file for the architecture."""
        return request.architecture in request.release.deb

    def key(self, request: Request) -> str:
        """Digest the hashes and what is taken out."""
        files = request.release.deb[request.architecture]
        return input_digest(
            kind="artefact",
            artefacts=[(("sha256", f.sha256), sorted(f.files.items())) for f in files],
        )

    def fetch(self, request: Request, directory: Path) -> Mapping[str, Path]:
        """Download, verify, unpack."""
        mirror = request.context.debian_mirror or host_mirror()
        found: dict[str, Path] = {}
        for number, file in enumerate(request.release.deb[request.architecture]):
            archive = directory / f"artefact-{number}"
            download(
                f"{mirror.rstrip('/')}/{file.path}",
                archive,
                digest=("sha256", file.sha256),
                context=request.context,
                title=f"Downloading {request.title} from the Debian mirror",
            )
            part = directory / f"part-{number}"
            part.mkdir()
            found |= unpack(archive, file.files, part)
            archive.unlink()
        check_programs(found, request)
        return found


def host_mirror() -> str:
    """Give the Debian archive that this host knows. Raises Unreachable if it knows none."""
    try:
        return debian_mirror().main
    except ConfigError as error:
        raise Unreachable(error.problems[0].what, hint=error.problems[0].hint) from error
