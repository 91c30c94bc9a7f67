# SPDX-License-Identifier: Apache-2.0
"""How does an upstream artefact come from a mirror: a URL or a directory?

The layout is `<original host>/<original path>`, that of kubespray's `files_repo`; a directory made
by `kubekiln lock mirror` has it, and any web server that shows such a directory.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kubekiln.errors import IntegrityError
from pipeline.lock import Artefact, ProviderName
from pipeline.sources.download import download
from pipeline.sources.provider import Request, Unreachable
from pipeline.sources.upstream import Upstream


def mirror_path(url: str) -> str:
    """Give the place of a URL's file in a mirror: `dl.k8s.io/v1.37.1/x.tar.gz`."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"


class Mirror:
    """Takes artefacts from a mirror; what they are is up to the same pins."""

    name: ProviderName = "mirror"

    def __init__(self) -> None:
        self._upstream = Upstream(get=_get)

    def offers(self, request: Request) -> bool:
        """Tell whether a mirror is configured and the artefacts are pinned."""
        return request.context.mirror is not None and self._upstream.offers(request)

    def key(self, request: Request) -> str:
        """The same as upstream's: the same bytes."""
        return self._upstream.key(request)

    def fetch(self, request: Request, directory: Path) -> Mapping[str, Path]:
        """Fetch as from upstream, from the mirror's address."""
        return self._upstream.fetch(request, directory)


def _get(artefact: Artefact, archive: Path, request: Request) -> None:
    mirror = request.context.mirror or ""
    inside = mirror_path(artefact.url)
    if urlsplit(mirror).scheme in ("http", "https"):
        download(
            f"{mirror.rstrip('/')}/{inside}",
            archive,
            digest=artefact.digest,
            context=request.context,
            title=f"Downloading {request.title} from the mirror",
        )
        return
    source = Path(mirror.removeprefix("file://")) / inside
    if not source.is_file():
        raise Unreachable(
            f"the mirror has no {inside}",
            where=str(source),
            hint="`kubekiln lock mirror DIR` on a connected host fills a mirror",
        )
    shutil.copyfile(source, archive)
    algorithm, wanted = artefact.digest
    with archive.open("rb") as stream:
        actual = hashlib.file_digest(stream, algorithm).hexdigest()
    if actual != wanted:
        raise IntegrityError(
            f"{algorithm} of the mirror's {inside} is {actual}", hint=f"pinned is {wanted}"
        )
