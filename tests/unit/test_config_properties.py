# SPDX-License-Identifier: Apache-2.0
"""Does the loader either give a model or a readable error, whatever the file holds?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cloudinit.model import Cluster
from cloudinit.rules import load_cluster
from kubekiln.config import load_model
from kubekiln.errors import ConfigError
from tests.support.clusters import cluster_data, make_project, write_cluster

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from(["10.0.0.0/8", "10.244.0.1/16", "fd00::/64", "1.37.1", "lab-1", "0.0.0.0/0"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = [
    (), ("network",), ("network", "flannel"), ("api",), ("pki",), ("etcd",), ("kubelet",),
    ("nodes", 0),
]  # fmt: skip
FIELDS = sorted(
    {name for model in (Cluster, *Cluster.__subclasses__()) for name in model.model_fields}
    | {"pod_cidr", "service_cidr", "node_cidr", "gateway", "dns_ip", "address", "mac", "mtu"}
)
calm = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@calm
@given(st.sampled_from(PLACES), st.sampled_from(FIELDS), values)
def test_any_value_at_any_key_is_taken_or_refused_with_a_place(
    place: tuple[Any, ...], key: str, value: Any
) -> None:
    data = cluster_data()
    at: Any = data
    for part in place:
        at = at[part] if isinstance(at, list) else at.setdefault(part, {})
    at[key] = value

    outcome = load(data)

    if isinstance(outcome, ConfigError):
        for problem in outcome.problems:
            assert problem.what and problem.where and problem.where.count(":") >= 1
            assert "\n" not in problem.what.strip() or "\n" in str(value)


@calm
@given(values)
def test_any_document_is_taken_or_refused(document: Any) -> None:
    outcome = load(document)

    assert isinstance(outcome, ConfigError)


@calm
@example(b"\x00")
@example(b"? [a]\n: b\n")
@example(b"since: 2026-13-45\n")
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_without_a_traceback(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "lab.yaml"
        path.write_bytes(content)

        try:
            load_model(Cluster, path)
        except ConfigError as error:
            assert str(error).startswith("error: ")
        else:
            raise AssertionError("random bytes are no cluster")


@calm
@given(st.data())
def test_a_loaded_cluster_is_the_one_that_was_written(data: st.DataObject) -> None:
    octet = data.draw(st.integers(2, 254))
    name = data.draw(st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True))
    written = cluster_data(nodes=[{"name": name, "role": "single", "address": f"10.80.0.{octet}"}])

    loaded = load(written)

    assert isinstance(loaded, Cluster)
    assert loaded.nodes[0].name == name
    assert str(loaded.interfaces_of(loaded.nodes[0])[0]) == f"10.80.0.{octet}/24"
    assert Cluster.model_validate(yaml.safe_load(loaded.model_dump_json())) == loaded


def load(document: Any) -> Cluster | ConfigError:
    with tempfile.TemporaryDirectory() as directory:
        project = make_project(Path(directory))
        write_cluster(project, document)
        try:
            return load_cluster("lab", project)
        except ConfigError as error:
            return error
