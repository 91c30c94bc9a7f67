# SPDX-License-Identifier: Apache-2.0
"""Is a program of the wrong kind noticed before it is in an image?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kubekiln.errors import IntegrityError
from pipeline.elf import check_program, elf_architecture
from pipeline.sources.toolchain import host_architecture
from tests.support.locks import program


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_architecture_is_read(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "p"
    path.write_bytes(program(architecture))

    assert elf_architecture(path) == architecture
    check_program(path, name="p", architecture=architecture)


def test_a_real_program_is_recognised() -> None:
    assert elf_architecture(Path(sys.executable).resolve()) == host_architecture()


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF", b"#!/bin/sh\necho hello there\n", b"<html><body>no</body></html>", bytes(64)],
    ids=["empty", "cut", "script", "web page", "zeros"],
)
def test_what_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p"
    path.write_bytes(content)

    with pytest.raises(IntegrityError, match="not a program"):
        check_program(path, name="p", architecture="amd64")


def test_an_object_file_is_no_program(tmp_path: Path) -> None:
    content = bytearray(program())
    content[16] = 1  # ET_REL
    path = tmp_path / "p.o"
    path.write_bytes(bytes(content))

    assert elf_architecture(path) is None


def test_another_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(program("arm64"))

    with pytest.raises(IntegrityError, match="kubelet is a program for arm64, wanted .* amd64"):
        check_program(path, name="kubelet", architecture="amd64")
