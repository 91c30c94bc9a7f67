# SPDX-License-Identifier: Apache-2.0
"""How does a component come from a mirror: a URL, or a directory?

`kubekiln lock mirror DIR` makes one; any web server can show it. What lies where:

* `<original host>/<original path>`: upstream artefacts, the layout of kubespray's `files_repo`;
* `debian/pool/…`: files of Debian;
* `kubekiln/<component>/<version>/<architecture>/<name>`: programs built from Go modules elsewhere.

All are checked against the same pins as from anywhere else, built programs against the hash on
record: a mirror is believed in nothing.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kubekiln.errors import IntegrityError
from pipeline.lock import Artefact, ProviderName
from pipeline.sources.download import download
from pipeline.sources.gomod import recorded
from pipeline.sources.provider import Request, Unreachable
from pipeline.sources.unpack import unpack
from pipeline.sources.upstream import Upstream, check_programs
from pipeline.store import input_digest

Way = Callable[[Request, Path], Mapping[str, Path]]


def mirror_path(url: str) -> str:
    """Give the place of an upstream artefact in a mirror: `dl.k8s.io/v1.37.1/x.tar.gz`."""
    parts = urlsplit(url)
    return f"{parts.netloc}{parts.path}"


def built_path(request: Request, name: str) -> str:
    """Give the place of a built program in a mirror."""
    return f"kubekiln/{request.component}/{request.version}/{request.architecture}/{name}"


class Mirror:
    """Takes artefacts, or else programs built elsewhere, from a mirror."""

    name: ProviderName = "mirror"

    def offers(self, request: Request) -> bool:
        """Tell whether a mirror is configured and the lock pins something it could have."""
        return request.context.mirror is not None and bool(_ways(request))

    def key(self, request: Request) -> str:
        """Digest every pin that the mirror's files would be checked against."""
        release, architecture = request.release, request.architecture
        return input_digest(
            kind="mirror",
            upstream=[(a.digest, a.files) for a in release.upstream.get(architecture, ())],
            deb=[(f.sha256, f.files) for f in release.deb.get(architecture, ())],
            built=_recorded(request),
        )

    def fetch(self, request: Request, directory: Path) -> Mapping[str, Path]:
        """Take the first of artefacts, Debian files and built programs that the mirror has."""
        ways = _ways(request)
        for number, way in enumerate(ways):
            part = directory / f"way-{number}"
            part.mkdir()
            try:
                found = way(request, part)
            except Unreachable:
                if number + 1 == len(ways):
                    raise
                continue
            check_programs(found, request)
            return found
        raise Unreachable(f"the mirror has nothing of {request.title}")


def _ways(request: Request) -> list[Way]:
    release, architecture = request.release, request.architecture
    ways: list[Way] = []
    if architecture in release.upstream:
        ways.append(Upstream(get=_get_artefact).fetch)
    if architecture in release.deb:
        ways.append(_fetch_debian)
    if _recorded(request):
        ways.append(_fetch_built)
    return ways


def _recorded(request: Request) -> Mapping[str, str] | None:
    build = request.release.gomod
    return recorded(build, request.context.lock, request.architecture) if build else None


def _get_artefact(artefact: Artefact, archive: Path, request: Request) -> None:
    get_from_mirror(mirror_path(artefact.url), archive, digest=artefact.digest, request=request)


def _fetch_debian(request: Request, directory: Path) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for number, file in enumerate(request.release.deb[request.architecture]):
        archive, part = directory / f"file-{number}", directory / f"part-{number}"
        digest = ("sha256", file.sha256)
        get_from_mirror(f"debian/{file.path}", archive, digest=digest, request=request)
        part.mkdir()
        found |= unpack(archive, file.files, part)
    return found


def _fetch_built(request: Request, directory: Path) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for name, sha256 in (_recorded(request) or {}).items():
        found[name] = directory / name
        place = built_path(request, name)
        get_from_mirror(place, found[name], digest=("sha256", sha256), request=request)
    return found


def get_from_mirror(place: str, target: Path, *, digest: tuple[str, str], request: Request) -> None:
    """Put the verified file at `place` of the mirror into `target`."""
    mirror = request.context.mirror or ""
    if urlsplit(mirror).scheme in ("http", "https"):
        return download(
            f"{mirror.rstrip('/')}/{place}",
            target,
            digest=digest,
            context=request.context,
            title=f"Downloading {request.title} from the mirror",
        )
    source = Path(mirror.removeprefix("file://")) / place
    if not source.is_file():
        raise Unreachable(
            f"the mirror has no {place}",
            where=str(source),
            hint="`kubekiln lock mirror DIR` on a connected host fills a mirror",
        )
    shutil.copyfile(source, target)
    algorithm, wanted = digest
    with target.open("rb") as stream:
        actual = hashlib.file_digest(stream, algorithm).hexdigest()
    if actual != wanted:
        raise IntegrityError(
            f"{algorithm} of the mirror's {place} is {actual}", hint=f"pinned is {wanted}"
        )
    return None
