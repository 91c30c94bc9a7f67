# SPDX-License-Identifier: Apache-2.0
"""Are exactly the wanted files taken out of an archive?"""

from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import pytest

from kubekiln.errors import IntegrityError
from pipeline.sources.unpack import unpack
from tests.support.locks import archive


def deb(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(b"odd"),
        "data.tar.xz": lzma.compress(data.getvalue()),
    }
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def take(tmp_path: Path, content: bytes, files: dict[str, str]) -> dict[str, bytes]:
    source, directory = tmp_path / "archive", tmp_path / "out"
    source.write_bytes(content)
    directory.mkdir()
    return {name: path.read_bytes() for name, path in unpack(source, files, directory).items()}


def test_the_file_itself_is_taken(tmp_path: Path) -> None:
    assert take(tmp_path, b"raw", {"runc": "."}) == {"runc": b"raw"}


def test_a_file_is_taken_whatever_its_name_starts_with(tmp_path: Path) -> None:
    content = archive({"./bin/a": b"A", "bin/b": b"B"})

    assert take(tmp_path, content, {"a": "bin/a", "b": "./bin/b"}) == {"a": b"A", "b": b"B"}


def test_several_files_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    content = archive({"certs/b.crt": b"B", "certs/a.crt": b"A", "certs/README": b"R"})

    assert take(tmp_path, content, {"roots.crt": "certs/*.crt"}) == {"roots.crt": b"AB"}


def test_a_debian_package_is_read(tmp_path: Path) -> None:
    content = deb({"./usr/bin/tool": b"T" * 1001})

    assert take(tmp_path, content, {"tool": "usr/bin/tool"}) == {"tool": b"T" * 1001}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("tool")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)

    with pytest.raises(IntegrityError, match="has no tool"):
        take(tmp_path, out.getvalue(), {"tool": "tool"})


@pytest.mark.parametrize(
    "content",
    [b"", b"rubbish", archive({"a": b"x" * 10_000})[:60], deb({"a": b"A"})[:150]],
    ids=["empty", "rubbish", "cut", "cut package"],
)
def test_a_broken_archive_is_said_to_be_broken(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(IntegrityError):
        take(tmp_path, content, {"a": "a"})
