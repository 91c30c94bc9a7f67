# SPDX-License-Identifier: Apache-2.0
"""Does the loader refuse what is wrong, all at once, at its line, with a hint?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic
import pytest

from kubekiln.config import CIDR, Model, Version, invalid, load_model
from kubekiln.errors import ConfigError


class Network(Model):
    pod_cidr: CIDR = pydantic.Field(description="Pods.")
    backend: Literal["vxlan", "udp"] = "vxlan"


class Node(Model):
    name: str
    cpus: int = 2


class Sample(Model):
    name: str
    version: Version = "1.37.1"
    network: Network
    nodes: tuple[Node, ...] = ()

    @pydantic.field_validator("nodes")
    @classmethod
    def _unique(cls, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        names = [node.name for node in nodes]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise invalid(f"name {name!r} is used twice", at=[index, "name"], hint="rename one")
        return nodes


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sample.yaml"
    path.write_text(text)
    return path


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_model(Sample, write(tmp_path, text))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_good_file_becomes_a_frozen_model(tmp_path: Path) -> None:
    path = write(tmp_path, 'name: a\nversion: "1.30"\nnetwork: {pod_cidr: 10.244.0.0/16}\n')

    sample = load_model(Sample, path)

    assert str(sample.network.pod_cidr) == "10.244.0.0/16"
    with pytest.raises(pydantic.ValidationError):
        sample.name = "b"


def test_host_bits_are_refused_with_the_network_that_was_meant(tmp_path: Path) -> None:
    text = refused(tmp_path, "name: a\nnetwork:\n  pod_cidr: 10.200.0.1/16\n")

    assert text.splitlines() == [
        "error: 10.200.0.1/16 has host bits set",
        f"  at {tmp_path}/sample.yaml:3 (network.pod_cidr)",
        "  hint: did you mean 10.200.0.0/16?",
    ]


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    text = refused(tmp_path, "name: a\nnetwork:\n  pod_cdr: 10.0.0.0/8\n")

    assert "unknown key 'pod_cdr'" in text
    assert "sample.yaml:3 (network.pod_cdr)" in text
    assert "did you mean 'pod_cidr'?" in text


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = refused(
        tmp_path,
        "name: [1]\nversion: 1.30\nnetwork:\n  pod_cidr: x\n  backend: gre\nnodes:\n"
        "  - name: n\n  - name: n\n    cpus: many\n",
    )

    lines = [line for line in text.splitlines() if line.startswith("  at")]
    assert [line.split(":")[1].split(" ")[0] for line in lines] == ["1", "2", "4", "5", "9"]
    assert 'write "1.3"' in text


def test_a_problem_across_items_is_shown_at_the_item(tmp_path: Path) -> None:
    text = refused(
        tmp_path,
        "name: a\nnetwork: {pod_cidr: 10.0.0.0/8}\nnodes:\n  - name: n\n  - name: n\n",
    )

    assert "sample.yaml:5 (nodes[1].name)" in text


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert "required key 'network' is missing" in refused(tmp_path, "name: a\n")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    text = refused(tmp_path, "name: a\nname: b\n")

    assert "key 'name' is given twice" in text
    assert "sample.yaml:2" in text


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "\tx: 1", "a: b: c"], ids=repr)
def test_what_is_not_a_yaml_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "sample.yaml" in refused(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_model(Sample, tmp_path / "none.yaml")
