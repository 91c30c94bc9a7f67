# SPDX-License-Identifier: Apache-2.0
"""How is a component built from its Go modules, to the byte that is on record?

`pipeline/gomodules/<component>/<version>` holds go.mod (what is required and replaced) and go.sum
(every module's hash). Modules come through the user's GOPROXY; the compiler is the pinned one; the
environment is ours. Files under `patch/<module path>` replace files of a module that go.mod
replaces by `./patched/<module path>`: used where a module can't be built as it is.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from kubekiln import progress
from kubekiln.errors import ConfigError, IntegrityError, StorageError
from kubekiln.files import locked, make_dir, sha256_file
from kubekiln.paths import cache_dir
from kubekiln.process import Command
from pipeline.elf import check_program
from pipeline.lock import Architecture, GoBuild, Lock, ProviderName, Toolchain
from pipeline.room import COMPILE_BYTES, check_room
from pipeline.sources.gocommand import Go, run_go
from pipeline.sources.gomodules import module_source, patch_modules
from pipeline.sources.provider import Request
from pipeline.sources.toolchain import install_toolchain
from pipeline.sources.zig import build_libseccomp, c_compiler, compile_program, zig_environment
from pipeline.store import input_digest

GOMODULES_DIR = Path(__file__).resolve().parent.parent / "gomodules"
_LARGE_CACHE_BYTES = 10_000_000_000

FetchDependency = Callable[[str, str], Mapping[str, Path]]


def mod_digest(directory: Path) -> str:
    """Digest go.mod, go.sum and patches: what `lock update` saw."""
    names = [directory / "go.mod", directory / "go.sum"]
    patch = directory / "patch"
    names += sorted(p for p in patch.rglob("*") if p.is_file())
    total = hashlib.sha256()
    for path in names:
        if not path.is_file():
            raise ConfigError(f"no {path.name} in {directory}", hint="run `kubekiln lock update`")
        total.update(f"{path.relative_to(directory)} {sha256_file(path)}\n".encode())
    return total.hexdigest()


def toolchain_name(build: GoBuild, lock: Lock) -> str:
    """Name the compilers of a build: recorded hashes are theirs."""
    parts = [f"go{lock.toolchains.go.version}"] if build.packages else []
    if build.cgo or build.c_programs:
        parts.append(f"zig{lock.toolchains.zig.version}")
    return "+".join(parts)


def recorded(build: GoBuild, lock: Lock, architecture: Architecture) -> Mapping[str, str] | None:
    """Find the hashes that a build must give; None if there are none on record."""
    name = toolchain_name(build, lock)
    for built in build.built:
        if (built.toolchain, built.architecture) == (name, architecture):
            return built.sha256
    return None


class GoMod:
    """Builds components, one at a time (Go uses every CPU by itself)."""

    name: ProviderName = "gomod"

    def __init__(
        self,
        fetch_dependency: FetchDependency,
        *,
        gomodules_dir: Path = GOMODULES_DIR,
        logs_dir: Path | None = None,
    ) -> None:
        self._fetch_dependency = fetch_dependency
        self._gomodules_dir = gomodules_dir
        self._logs_dir = logs_dir or cache_dir() / "logs"
        self._one_at_a_time = threading.Lock()
        self._go: Go | None = None

    def offers(self, request: Request) -> bool:
        """Tell whether the lock has a Go build for it."""
        return request.release.gomod is not None

    def key(self, request: Request) -> str:
        """Digest modules, patches, flags and compilers."""
        build = _build_of(request)
        return input_digest(
            kind="gomod",
            layout=1,
            modules=build.mod_sha256,
            build=build.model_dump(
                include={"packages", "c_programs", "tags", "ldflags", "cgo", "c_libraries"}
            ),
            toolchain=toolchain_name(build, request.context.lock),
            architecture=request.architecture,
        )

    def fetch(self, request: Request, directory: Path) -> Mapping[str, Path]:
        """Build every binary of the component in one go, and compare with the record."""
        build = _build_of(request)
        self._check_modules(build, request)
        with self._one_at_a_time:
            request.context.check_cancelled()
            go_dir = _toolchain(request, request.context.lock.toolchains.go)
            go = Go(go_dir / "go", base=make_dir(cache_dir() / "go"))
            wait = progress.waits("another kubekiln compiles", request.context.check_cancelled)
            with locked(go.base / "lock", waiting=wait):
                check_room(go.base, COMPILE_BYTES, what_for="a build from Go modules")
                self._go = go
                found = self._build(build, request, directory, go)
        for name, path in found.items():
            check_program(path, name=name, architecture=request.architecture)
        _check_record(build, request, found)
        return found

    def prune(self) -> None:
        """Throw Go's build cache away if this run used it and it is large or the disk is nearly
        full: the store has what it was for, but the next version builds faster with it."""
        if self._go is None:
            return
        # Who compiles now has a use for it; whoever is last throws it away.
        with suppress(StorageError), locked(self._go.base / "lock", blocking=False):
            files = [p.stat().st_size for p in self._go.build_cache_dir.rglob("*") if p.is_file()]
            free = shutil.disk_usage(self._go.base).free
            if sum(files) > _LARGE_CACHE_BYTES or free < COMPILE_BYTES:
                self._go.prune()

    def _check_modules(self, build: GoBuild, request: Request) -> None:
        directory = self._gomodules_dir / build.directory
        if mod_digest(directory) != build.mod_sha256:
            raise ConfigError(
                f"go.mod, go.sum or patches of {request.component} {request.version} are not "
                "those of the lock",
                where=str(directory),
                hint="`kubekiln lock update` takes an intended change over; else restore them",
            )

    def _build(self, build: GoBuild, request: Request, directory: Path, go: Go) -> dict[str, Path]:
        work_dir = directory / "work"
        shutil.copytree(self._gomodules_dir / build.directory, work_dir)
        patch_modules(work_dir, go)
        found: dict[str, Path] = {}
        if build.c_programs:
            found |= self._compile(build, request, work_dir, go)
        if build.packages:
            found |= self._link(build, request, work_dir, go)
        return found

    def _compile(self, build: GoBuild, request: Request, work_dir: Path, go: Go) -> dict[str, Path]:
        module_dir = module_source(go, work_dir, build.module, build.version, expected=build.sum)
        zig_dir = _toolchain(request, request.context.lock.toolchains.zig)
        found: dict[str, Path] = {}
        with progress.step(f"Compiling {request.title}"):
            for name, program in build.c_programs.items():
                found[name] = work_dir / name
                compile_program(
                    module_dir / program.source,
                    found[name],
                    cflags=program.cflags,
                    zig_dir=zig_dir,
                    architecture=request.architecture,
                    cancel=request.context.cancel,
                )
        return found

    def _link(self, build: GoBuild, request: Request, work_dir: Path, go: Go) -> dict[str, Path]:
        out = make_dir(work_dir / "out")
        # In the store's temporary directory, which is cleared even after a kill -9.
        env = go.environment(request.architecture) | {"GOTMPDIR": str(make_dir(work_dir / "tmp"))}
        ldflags = ["-s", "-w", *build.ldflags]
        if build.cgo:
            env |= self._c_environment(build, request, work_dir)
            # Go's and the linker's build ids would carry the paths of this build.
            ldflags += ["-buildid=", "-linkmode=external", "-extldflags=-static"]
        options = ["-v", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", f"{out}/"]
        flags = ["-tags", ",".join(build.tags), "-ldflags", " ".join(ldflags)]
        argv: list[str | Path] = [go.program, "build", *options, *flags, *build.packages.values()]
        log = make_dir(self._logs_dir) / (
            f"gomod-{request.component}-{request.version}-{request.architecture}.log"
        )
        log.unlink(missing_ok=True)
        with progress.step(f"Building {request.title} from its Go modules") as note:
            run_go(
                Command(argv, cwd=work_dir, env=env, log=log),
                cancel=request.context.cancel,
                note=note,
            )
        return {name: out / executable_name(package) for name, package in build.packages.items()}

    def _c_environment(self, build: GoBuild, request: Request, work_dir: Path) -> dict[str, str]:
        zig_dir = _toolchain(request, request.context.lock.toolchains.zig)
        env = {
            "CGO_ENABLED": "1",
            "CC": " ".join(c_compiler(zig_dir, request.architecture)),
            "CGO_CFLAGS": "-O2 -g0",
            "CGO_LDFLAGS": "-O2",
            **zig_environment(),
        }
        for name, version in build.c_libraries.items():
            if name != "libseccomp":
                raise ConfigError(f"don't know how to build the C library {name!r}")
            with progress.step(f"Compiling libseccomp {version} ({request.architecture})"):
                files = self._fetch_dependency(name, version)
                prefix = build_libseccomp(
                    files["libseccomp.tar.gz"],
                    make_dir(work_dir / "libseccomp"),
                    version=version,
                    zig_dir=zig_dir,
                    architecture=request.architecture,
                    cancel=request.context.cancel,
                )
            env["PKG_CONFIG"] = str(_write_pkg_config(work_dir, prefix, "-lseccomp"))
        return env


def _toolchain(request: Request, toolchain: Toolchain) -> Path:
    return install_toolchain(toolchain, cancel=request.context.cancel)


def _build_of(request: Request) -> GoBuild:
    assert request.release.gomod is not None, "offers() was not asked"
    return request.release.gomod


def executable_name(package: str) -> str:
    """Name the file that `go build` makes of a main package."""
    parts = package.split("/")
    is_major = parts[-1][:1] == "v" and parts[-1][1:].isdigit()
    return parts[-2] if is_major and len(parts) > 1 else parts[-1]


def _write_pkg_config(work_dir: Path, prefix: Path, libs: str) -> Path:
    """Write a stand-in for pkg-config, which a host may lack and which knows only its own files."""
    program = work_dir / "pkg-config"
    program.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f"--cflags) echo '-I{prefix}/include' ;;\n"
        f"--libs) echo '-L{prefix}/lib {libs}' ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    return program


def _check_record(build: GoBuild, request: Request, found: Mapping[str, Path]) -> None:
    expected = recorded(build, request.context.lock, request.architecture)
    if expected is None:
        progress.say(f"{request.title}: no build on record to compare this one with")
        return
    for name, path in found.items():
        actual = sha256_file(path)
        if actual != expected.get(name):
            raise IntegrityError(
                f"{request.title}: sha256 of the built {name} is {actual}",
                hint=f"on record is {expected.get(name)}: same modules, flags and compilers must "
                "give the same bytes; please report it",
            )
