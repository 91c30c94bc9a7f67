# SPDX-License-Identifier: Apache-2.0
"""Does a node understand its manifest, and refuse one that it doesn't?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import sample_manifest

from kubekiln_node.manifest import ManifestError, WrittenFile, read_manifest  # isort: skip


def read(tmp_path: Path, raw: object) -> Any:
    path = tmp_path / "node.json"
    path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return read_manifest(str(path))


def problems_of(tmp_path: Path, raw: object) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, raw)
    return caught.value.reasons


def test_a_right_manifest_is_read_whole(tmp_path: Path) -> None:
    manifest = read(tmp_path, sample_manifest(report={"timeout_s": 5}))

    assert manifest.node == "solo-1"
    assert manifest.files == (WrittenFile("/etc/x", 0o600, "root:root", "0" * 64),)
    assert manifest.report["timeout_s"] == 5
    assert manifest.report["server"] == "https://127.0.0.1:6443"


def test_another_schema_is_the_only_thing_said(tmp_path: Path) -> None:
    found = problems_of(tmp_path, {"schema": 2, "whatever": True})

    assert len(found) == 1
    assert "schema 2" in found[0]


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    found = problems_of(tmp_path, sample_manifest(node="", units=[], extra=1))

    assert len(found) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"extra": 1}, "unknown key 'extra'", id="unknown key"),
        pytest.param({"kubernetes": 1.37}, "kubernetes is 1.37", id="version as a number"),
        pytest.param({"units": ["../evil"]}, "no unit name", id="unit with a path"),
        pytest.param({"files": []}, "files is not a list", id="no files"),
        pytest.param({"files": [{"path": "/x"}]}, "exactly", id="half a file"),
        pytest.param({"phone_home": "file:///etc"}, "phone_home", id="phone home to a file"),
        pytest.param({"report": {"sever": "x"}}, "report.sever", id="misspelt report key"),
        pytest.param({"valid_from": "2026"}, "valid_from is '2026'", id="time as text"),
        pytest.param({"valid_until": True}, "valid_until is True", id="time as a truth"),
        pytest.param({"report": {"timeout_s": "5"}}, "report.timeout_s", id="number as text"),
    ],
)
def test_what_it_does_not_understand_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    assert any(said in problem for problem in problems_of(tmp_path, sample_manifest(**change)))


@pytest.mark.parametrize(
    "change",
    [
        {"path": "etc/x"},
        {"path": "/etc/../x"},
        {"mode": "rw"},
        {"mode": 384},
        {"sha256": "abc"},
    ],
    ids=str,
)
def test_a_file_entry_that_makes_no_sense_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    entry = {**sample_manifest()["files"][0], **change}

    assert len(problems_of(tmp_path, sample_manifest(files=[entry]))) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"], ids=repr)
def test_a_damaged_manifest_is_no_traceback(tmp_path: Path, text: str) -> None:
    assert "no JSON" in problems_of(tmp_path, text)[0]
