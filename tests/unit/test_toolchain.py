# SPDX-License-Identifier: Apache-2.0
"""Is a host that can't have the pinned compilers told so?"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubekiln.errors import EXIT_USAGE, KubekilnError, StorageError
from pipeline.sources import toolchain
from tests.support.locks import lock_of


def test_a_disk_without_room_for_a_compiler_is_as_full_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "COMPILERS_BYTES", 10**18)

    with pytest.raises(StorageError, match="GB are free for .*, a compiler needs") as caught:
        toolchain.install_toolchain(lock_of({}).toolchains.go, base=tmp_path)

    assert caught.value.exit_code == EXIT_USAGE
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_an_unknown_host_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain.platform, "machine", lambda: "sparc64")

    with pytest.raises(KubekilnError, match="no pinned compilers for a sparc64 host"):
        toolchain.host_architecture()
