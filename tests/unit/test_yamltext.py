# SPDX-License-Identifier: Apache-2.0
"""Do names that look like something else reach every reader of YAML as text?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit.part import NodeFile
from cloudinit.render import render_payloads
from cloudinit.state import State
from kubekiln.yamltext import dump, dump_all
from tests.support.clusters import NOW, make_cluster, make_project, render

# To PyYAML, or to Go's parser, a number, a truth, nothing or a date.
ODD = ["001", "089", "1e3", "0o17", "0x1f", "0b11", "12", "2026-01-01", "1.5", ".5", "5.",
       "on", "no", "y", "n", "true", "null", "inf", "", "~"]  # fmt: skip
NAMES = ("001", "on", "y")
CLUSTER = "2026"


@pytest.mark.parametrize("text", ODD)
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    written = dump({"name": text})

    assert yaml.safe_load(written) == {"name": text}
    assert written == f"name: '{text}'\n" or text == "inf"


def test_what_is_no_text_is_not_quoted() -> None:
    document = {"name": "lab-1", "count": 3, "share": 1.5, "is": True, "none": None}

    assert dump(document) == "name: lab-1\ncount: 3\nshare: 1.5\nis: true\nnone: null\n"
    assert dump_all([document, document]).count("name: lab-1\n") == 2


def odd_cluster(bootstrap: str) -> dict[str, Any]:
    roles = ("master", "worker", "worker")
    return {
        "name": CLUSTER,
        "bootstrap": bootstrap,
        "nodes": [
            {"name": name, "role": role, "address": f"10.80.0.1{i}", "labels": {"on": "1e3"}}
            for i, (name, role) in enumerate(zip(NAMES, roles, strict=True))
        ],
    }


@pytest.mark.parametrize("bootstrap", ["systemd", "kubeadm"])
def test_odd_names_are_text_in_all_that_is_rendered(bootstrap: str, tmp_path: Path) -> None:
    rendered = render(tmp_path, **odd_cluster(bootstrap))

    found = []
    for node in rendered.nodes:
        user_data = yaml.safe_load(node.user_data.read_text())
        meta_data = yaml.safe_load(node.meta_data.read_text())
        assert user_data["hostname"] == node.name == meta_data["local-hostname"]
        assert user_data["fqdn"] == f"{node.name}.cluster.local"
        for file in user_data["write_files"]:
            if file["path"].endswith((".yaml", ".conf")) and "apiVersion" in file["content"]:
                found += list(names_of(list(yaml.safe_load_all(file["content"]))))
    assert [name for name in found if not isinstance(name, str)] == []
    assert {CLUSTER, *NAMES[: 1 if bootstrap == "systemd" else 3]} <= set(found)


@pytest.mark.parametrize("bootstrap", ["systemd", "kubeadm"])
def test_odd_names_are_quoted_for_whoever_else_reads_them(bootstrap: str, tmp_path: Path) -> None:
    cluster, project = make_cluster(**odd_cluster(bootstrap)), make_project(tmp_path)
    state = State.open(tmp_path / "state" / CLUSTER, cluster=CLUSTER, config=cluster.pki, now=NOW)

    files: list[NodeFile] = [
        file
        for payload in render_payloads(cluster, state=state, project=project)
        for file in payload.files
        if b"apiVersion:" in file.content
    ]

    assert len(files) > 5
    plain = [f": {name}" for name in (*NAMES, CLUSTER, "1e3")]
    for file in files:
        lines = file.content.decode().splitlines()
        assert [line for line in lines if line.endswith(tuple(plain))] == [], file.path


def test_the_hosts_kubeconfig_names_an_odd_cluster(tmp_path: Path) -> None:
    render(tmp_path, **odd_cluster("systemd"))

    document = yaml.safe_load((tmp_path / "state" / CLUSTER / "admin.kubeconfig").read_text())

    assert document["current-context"] == CLUSTER == document["contexts"][0]["name"]


NAME_KEYS = {"name", "clusterName", "cluster", "current-context", "user", "dnsDomain", "on"}


def names_of(value: Any) -> Iterator[Any]:
    """Give all that stands where a name does; a key `cluster` may also have a mapping."""
    if isinstance(value, list):
        for inner in value:
            yield from names_of(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict | list):
                yield from names_of(inner)
            elif key in NAME_KEYS:
                yield inner
