# SPDX-License-Identifier: Apache-2.0
"""How is C compiled so that every host gets the same bytes?"""

from __future__ import annotations

import os
import tarfile
import threading
from pathlib import Path

from kubekiln.errors import IntegrityError
from kubekiln.files import make_dir
from kubekiln.paths import cache_dir
from kubekiln.process import Command
from pipeline.lock import Architecture
from pipeline.sources.watched import run_watched

_TARGETS: dict[Architecture, str] = {"amd64": "x86_64-linux-musl", "arm64": "aarch64-linux-musl"}


def zig_environment() -> dict[str, str]:
    """Keep zig's own cache in ours."""
    place = str(make_dir(cache_dir() / "zig"))
    return {"ZIG_GLOBAL_CACHE_DIR": place, "ZIG_LOCAL_CACHE_DIR": place}


def c_compiler(zig_dir: Path, architecture: Architecture) -> list[str]:
    """Give the argv of a C compiler for static musl programs, for any CPU of the architecture."""
    return [str(zig_dir / "ziglang" / "zig"), "cc", "-target", _TARGETS[architecture]]


def compile_program(
    source: Path,
    target: Path,
    *,
    cflags: tuple[str, ...],
    zig_dir: Path,
    architecture: Architecture,
    cancel: threading.Event,
) -> None:
    """Compile and link one C file into a static, stripped program."""
    flags = ["-static", "-s", "-g0", *cflags, "-o", str(target)]
    argv = [*c_compiler(zig_dir, architecture), *flags, source.name]
    _run(argv, source.parent, target.with_name(f"{target.name}.log"), cancel)


def _run(argv: list[str], cwd: Path, log: Path, cancel: threading.Event) -> None:
    run_watched(Command(argv, cwd=cwd, env=zig_environment(), log=log), cancel=cancel)


def build_libseccomp(
    archive: Path,
    work_dir: Path,
    *,
    version: str,
    zig_dir: Path,
    architecture: Architecture,
    cancel: threading.Event,
) -> Path:
    """Compile libseccomp's release archive into a static library; give its prefix.

    Its `configure` would only find out what we know: every file of src/ but the syscall dumper is
    the library, and the kernel has seccomp.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(work_dir / "source", filter="data")
    roots = list((work_dir / "source").iterdir())
    if len(roots) != 1:
        raise IntegrityError(f"{archive.name} is not a release archive of libseccomp")
    prefix = work_dir / "prefix"
    _write_headers(roots[0], prefix, version)
    _compile_objects(roots[0] / "src", prefix, zig_dir, architecture, cancel)
    return prefix


def _write_headers(root: Path, prefix: Path, version: str) -> None:
    include = prefix / "include"
    include.mkdir(parents=True)
    header = (root / "include" / "seccomp.h.in").read_text()
    for name, number in zip(("MAJOR", "MINOR", "MICRO"), version.split("."), strict=True):
        header = header.replace(f"@VERSION_{name}@", number)
    (include / "seccomp.h").write_text(header)
    (root / "include" / "seccomp.h").write_text(header)
    for other in ("seccomp-syscalls.h",):
        (include / other).write_bytes((root / "include" / other).read_bytes())
    (root / "configure.h").write_text("#define HAVE_LINUX_SECCOMP_H 1\n")


def _compile_objects(
    src: Path, prefix: Path, zig_dir: Path, architecture: Architecture, cancel: threading.Event
) -> None:
    objects, log = prefix / "objects", prefix / "log"
    objects.mkdir()
    library = prefix / "lib" / "libseccomp.a"
    library.parent.mkdir()
    compiler = c_compiler(zig_dir, architecture)
    flags = ["-O2", "-g0", "-fPIC", "-I..", "-I../include", "-I."]
    made: list[str] = []
    for source in sorted(src.glob("*.c")):
        if source.stem == "arch-syscall-dump":
            continue
        made.append(f"{source.stem}.o")
        out = os.path.relpath(objects / made[-1], src)
        _run([*compiler, *flags, "-c", source.name, "-o", out], src, log, cancel)
    # D: no times and owners in the archive.
    _run([compiler[0], "ar", "rcsD", str(library), *made], objects, log, cancel)
