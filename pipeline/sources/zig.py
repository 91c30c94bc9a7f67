# SPDX-License-Identifier: Apache-2.0
"""How is C compiled so that every host gets the same bytes?"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

from kubekiln.errors import IntegrityError
from kubekiln.files import make_dir
from kubekiln.paths import cache_dir
from kubekiln.process import Command, run
from pipeline.lock import Architecture

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
) -> None:
    """Compile and link one C file into a static, stripped program."""
    run(
        Command(
            [*c_compiler(zig_dir, architecture), "-static", "-s", "-g0", *cflags,
             "-o", target, source.name],
            cwd=source.parent,
            env=zig_environment(),
        )
    )  # fmt: skip


def build_libseccomp(
    archive: Path,
    work_dir: Path,
    *,
    version: str,
    zig_dir: Path,
    architecture: Architecture,
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
    _compile_objects(roots[0] / "src", prefix, zig_dir, architecture)
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


def _compile_objects(src: Path, prefix: Path, zig_dir: Path, architecture: Architecture) -> None:
    objects = prefix / "objects"
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
        run(
            Command(
                [*compiler, *flags, "-c", source.name, "-o", out], cwd=src, env=zig_environment()
            )
        )
    # D: no times and owners in the archive.
    run(Command([compiler[0], "ar", "rcsD", library, *made], cwd=objects, env=zig_environment()))
