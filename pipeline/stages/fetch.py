# SPDX-License-Identifier: Apache-2.0
"""How do the locked components get into the store, whoever can give them?

`fetch_components` is thread-safe and made to run beside the root file system. Component keys are
those of the lock: `kubernetes`, `etcd`, `containerd`, `runc`, `cni-plugins`, `crictl`, `flannel`,
`coredns`, `pause`. `Fetched.files` maps a program's name to its (executable, read-only) file in the
store. Of some programs there are container images as well: `Fetched.images` maps the name in the
container runtime to a tar for `ctr images import`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from kubekiln import progress
from kubekiln.errors import (
    ConfigError,
    IntegrityError,
    KubekilnError,
    Problem,
    without_credentials,
)
from pipeline.lock import Architecture, Image, Lock, Release
from pipeline.sources.compose import compose_image
from pipeline.sources.deb import Deb
from pipeline.sources.gomod import GoMod, recorded
from pipeline.sources.mirror import Mirror
from pipeline.sources.provider import Cancelled, Context, Provider, Request, Unreachable
from pipeline.sources.upstream import Upstream
from pipeline.store import Store, input_digest

DEFAULT_PROVIDERS: tuple[str, ...] = ("mirror", "upstream", "gomod", "deb")
_DEPENDENCY_PROVIDERS = ("mirror", "deb", "upstream")
"""For what a build needs (C libraries, certificates): those that need no build."""
_PARALLEL = 4


@dataclass(frozen=True)
class Fetched:
    """A component whose files are in the store."""

    component: str
    version: str
    architecture: Architecture
    provider: str
    files: Mapping[str, Path]
    """Program name → file in the store."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """Name in the container runtime → container image as a tar."""
    reused: bool = False
    """It was in the store already."""

    @property
    def sha256(self) -> Mapping[str, str]:
        """Program name → sha256 (the store names files by it)."""
        return {name: path.name for name, path in self.files.items()}


def fetch_components(
    lock: Lock,
    wanted: Mapping[str, str],
    *,
    architecture: Architecture,
    providers: Sequence[str],
    store: Store,
    mirror: str | None = None,
    debian_mirror: str | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, Fetched]:
    """Get every wanted component (name → version), several at once.

    `providers` is the order to try (`auto` stands for the default one). Raises ConfigError for what
    the lock lacks, before any work; else the errors of every provider tried for the component that
    failed first. `cancel` stops downloads and builds soon after it is set.
    """
    lock.check_wanted(wanted, architecture)
    event = cancel or threading.Event()
    context = Context(lock, store, mirror=mirror, debian_mirror=debian_mirror, cancel=event)
    fetcher = Fetcher(context, provider_order(providers))
    requests = [
        Request(name, version, architecture, lock.release(name, version), context)
        for name, version in wanted.items()
    ]
    fetched = _fetch_all(fetcher, requests, event)
    fetcher.gomod.prune()
    return {name: fetched[name] for name in wanted}


def provider_order(providers: Sequence[str]) -> tuple[str, ...]:
    """Give the order in which providers are tried."""
    return tuple(DEFAULT_PROVIDERS if "auto" in providers else providers)


def _fetch_all(
    fetcher: Fetcher, requests: Sequence[Request], cancel: threading.Event
) -> dict[str, Fetched]:
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="fetch") as pool:
        futures = {pool.submit(fetcher.fetch, request): request for request in requests}
        try:
            return {futures[f].component: f.result() for f in as_completed(futures)}
        except BaseException:
            # The others stop by themselves: downloads at the next chunk, a build at the next poll.
            cancel.set()
            for future in futures:
                future.cancel()
            raise


@dataclass
class Fetcher:
    """Asks providers in order."""

    context: Context
    order: Sequence[str]
    gomod: GoMod = field(init=False)
    providers: Mapping[str, Provider] = field(init=False)

    def __post_init__(self) -> None:
        self.gomod = GoMod(self._fetch_dependency)
        known: tuple[Provider, ...] = (Upstream(), Mirror(), self.gomod, Deb())
        self.providers = {provider.name: provider for provider in known}
        unknown = [name for name in self.order if name not in self.providers]
        if unknown:
            raise ConfigError(
                f"no provider named {unknown[0]!r}",
                hint=f"there are: auto, {', '.join(sorted(self.providers))}",
            )

    def fetch(self, request: Request, order: Sequence[str] | None = None) -> Fetched:
        names = self.order if order is None else order
        offering = self._offering(request, names)
        if not offering:
            raise ConfigError(
                f"no provider of {', '.join(names)} has {request.title}",
                hint=f"the lock has it from: {_offers(request.release, request.architecture)}",
            )
        for provider in offering:
            found = self._from_store(provider, request)
            if found:
                return self._with_images(found, request)
        return self._with_images(self._from_providers(offering, request), request)

    def look_up(self, request: Request, order: Sequence[str] | None = None) -> Fetched | None:
        """Find a component in the store; fetches, builds and composes nothing."""
        offering = self._offering(request, self.order if order is None else order)
        found = next((f for way in offering if (f := self._from_store(way, request))), None)
        if found is None:
            return None
        images = {i.reference: self._look_up_image(i, found) for i in request.release.images}
        there = {reference: path for reference, path in images.items() if path}
        return replace(found, images=there) if len(there) == len(images) else None

    def compiles(self, request: Request) -> bool:
        """Tell whether a component is to be compiled, unless somebody can't be reached."""
        offering = self._offering(request, self.order)
        there = any(self._from_store(way, request) for way in offering)
        return not there and offering[:1] == [self.gomod]

    def _offering(self, request: Request, names: Sequence[str]) -> list[Provider]:
        return [p for name in names if (p := self.providers[name]).offers(request)]

    def _look_up_image(self, image: Image, found: Fetched) -> Path | None:
        roots = None
        if image.ca_certificates is not None:
            certificates = self.look_up(*self._dependency("ca-certificates", image.ca_certificates))
            if certificates is None:
                return None
            roots = certificates.files["roots.crt"]
        composed = self.context.store.lookup(_compose_key(image, found, roots))
        return composed[_file_name(image)] if composed else None

    def _from_store(self, provider: Provider, request: Request) -> Fetched | None:
        files = self.context.store.lookup(provider.key(request))
        if files is None or not _is_on_record(provider, request, files):
            return None
        return _fetched(request, provider.name, files, reused=True)

    def _from_providers(self, offering: Sequence[Provider], request: Request) -> Fetched:
        problems: list[Problem] = []
        for provider in offering:
            try:
                return self._from_provider(provider, request)
            except (Unreachable, IntegrityError) as error:
                problems.extend(error.problems)
                if provider is not offering[-1]:
                    _say_next(provider, request, error)
        raise KubekilnError.of(
            (Problem(f"cannot get {request.title} from any of its providers"), *problems)
        )

    def _from_provider(self, provider: Provider, request: Request) -> Fetched:
        store, key = self.context.store, provider.key(request)
        with store.lock(key, waiting=self._waits(request.title)):
            found = self._from_store(provider, request)  # another bake may have been faster
            if found:
                return found
            self.context.check_cancelled()
            with store.workspace() as directory:
                new = provider.fetch(request, directory)
                kept = {n: store.add(p, executable="." not in n) for n, p in sorted(new.items())}
            about = {"component": request.component, "version": request.version,
                     "architecture": request.architecture, "provider": provider.name}  # fmt: skip
            store.record(key, kept, about=about)
        files = {name: store.path(sha256) for name, sha256 in kept.items()}
        return _fetched(request, provider.name, files, reused=False)

    def _waits(self, title: str) -> Callable[[], None]:
        return progress.waits(f"{title} is being made already", self.context.check_cancelled)

    def _fetch_dependency(self, component: str, version: str) -> Mapping[str, Path]:
        return self.fetch(*self._dependency(component, version)).files

    def _dependency(self, component: str, version: str) -> tuple[Request, list[str]]:
        context = self.context
        release = context.lock.release(component, version)
        # What is compiled or composed from it may differ by architecture; the source does not.
        architecture = next(iter({**release.upstream, **release.deb}))
        request = Request(component, version, architecture, release, context)
        order = [n for n in self.order if n in _DEPENDENCY_PROVIDERS]
        order += [n for n in _DEPENDENCY_PROVIDERS if n not in order]
        return request, order

    def _with_images(self, fetched: Fetched, request: Request) -> Fetched:
        images = {i.reference: self._compose(i, fetched) for i in request.release.images}
        return replace(fetched, images=images)

    def _compose(self, image: Image, fetched: Fetched) -> Path:
        store, name = self.context.store, _file_name(image)
        roots = self._ca_certificates(image)
        key = _compose_key(image, fetched, roots)
        with store.lock(key, waiting=self._waits(image.reference)):
            known = store.lookup(key)
            if known:
                return known[name]
            with store.workspace() as directory:
                compose_image(
                    image,
                    fetched.files[image.binary],
                    directory / name,
                    architecture=fetched.architecture,
                    ca_certificates=roots.read_bytes() if roots else None,
                )
                sha256 = store.add(directory / name)
            store.record(key, {name: sha256}, about={"image": image.reference})
        return store.path(sha256)

    def _ca_certificates(self, image: Image) -> Path | None:
        if image.ca_certificates is None:
            return None
        return self._fetch_dependency("ca-certificates", image.ca_certificates)["roots.crt"]


def _compose_key(image: Image, fetched: Fetched, roots: Path | None) -> str:
    return input_digest(
        kind="compose", layout=2, image=image.model_dump(), roots=roots and roots.name,
        binary=fetched.sha256[image.binary], architecture=fetched.architecture,
    )  # fmt: skip


def _file_name(image: Image) -> str:
    return f"{image.binary}.tar"


def _fetched(
    request: Request, provider: str, files: Mapping[str, Path], *, reused: bool
) -> Fetched:
    return Fetched(
        request.component, request.version, request.architecture, provider, files, reused=reused
    )


def _is_on_record(provider: Provider, request: Request, files: Mapping[str, Path]) -> bool:
    """Tell whether a build that the store has, made before there was a record, is the recorded one.

    If it isn't, it is made again and compared as every new one is.
    """
    build = request.release.gomod
    if provider.name != "gomod" or build is None:
        return True
    expected = recorded(build, request.context.lock, request.architecture)
    return expected is None or all(path.name == expected.get(name) for name, path in files.items())


def _say_next(provider: Provider, request: Request, error: KubekilnError) -> None:
    if isinstance(error, Cancelled):
        return
    reason = without_credentials(error.problems[0].what)
    progress.say(f"{request.title} not from {provider.name}: {reason}")


def _offers(release: Release, architecture: Architecture) -> str:
    return ", ".join(release.providers(architecture)) or "nobody"
