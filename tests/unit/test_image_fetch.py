# SPDX-License-Identifier: Apache-2.0
"""Does `image fetch` say where each component came from, without a bake?"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from kubekiln.cli.main import app
from pipeline.stages import components
from tests.support.node_runtime import ROOT


def test_it_names_each_component_and_its_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    asked: list[object] = []

    def gather(image: object, lock: object) -> object:
        asked.extend((image, lock))
        return SimpleNamespace(providers={"etcd": "gomod", "kubernetes": "mirror"})

    monkeypatch.setattr(components, "gather", gather)

    result = CliRunner().invoke(app, ["image", "fetch"], catch_exceptions=False)

    assert result.stdout.splitlines() == ["etcd        gomod", "kubernetes  mirror"]
    assert getattr(asked[0], "name", "") == "debian-13"
    assert not (tmp_path / "build").exists()
