# SPDX-License-Identifier: Apache-2.0
"""Does `cluster explain` know each file, and does an add-on take values without breaking?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit.addon import load_addon
from cloudinit.explain import explain_node, find_file
from kubekiln.errors import ConfigError
from tests.support.clusters import make_cluster, make_project, render, render_files, snapshot

VIEW: dict[str, Any] = {
    "cluster": "lab", "domain": "cluster.local", "dns_ip": "10.96.0.10", "nameservers": [],
    "nodes": 1, "pod_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/16",
    "versions": {"coredns": "1.0.0"},
}  # fmt: skip


def test_every_file_of_the_payload_is_explained_with_its_cost(tmp_path: Path) -> None:
    project, cluster = make_project(tmp_path), make_cluster()
    size = render(tmp_path).nodes[0].size_gzip

    explanations = explain_node(cluster, "lab-1", project=project)

    assert [e.file.path for e in explanations] == list(render_files(tmp_path))
    assert all(e.file.source and e.file.part for e in explanations)
    assert 0.5 * size < sum(e.cost for e in explanations) < size


def test_explaining_writes_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    before = snapshot(tmp_path)

    explain_node(make_cluster(), "lab-1", project=project)

    assert snapshot(tmp_path) == before


def test_one_file_is_found_by_its_path_and_a_wrong_one_is_helped(tmp_path: Path) -> None:
    explanations = explain_node(make_cluster(), "lab-1", project=make_project(tmp_path))

    found = find_file(explanations, "/etc/kubernetes/kube-proxy.yaml")

    assert (found.file.part, found.file.keys) == ("proxy", ("network.pod_cidr",))
    with pytest.raises(ConfigError, match="puts no /etc/kube-proxy.yaml") as error:
        find_file(explanations, "/etc/kube-proxy.yaml")
    assert "did you mean /etc/kubernetes/kube-proxy.yaml?" in str(error.value)


def test_an_unknown_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no node 'lab-9'"):
        explain_node(make_cluster(), "lab-9", project=make_project(tmp_path))


def plant(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "extra.yaml"
    path.write_text(text)
    return path


OBJECT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n"


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ('"{{ nodes }}"', 1),
        ('"{{ nodes + 1 }} nodes"', "2 nodes"),
        ('"{{ domain }}"', "cluster.local"),
        ("plain", "plain"),
        ('"{ not a value }"', "{ not a value }"),
        ('"{% if nameservers %}some{% else %}none{% endif %}"', "none"),
        ('"{{ versions.coredns }}"', "1.0.0"),
    ],
)
def test_values_are_put_into_an_addon_with_their_type(
    tmp_path: Path, value: str, filled: object
) -> None:
    path = plant(tmp_path, f"{OBJECT}  key: {value}\n")

    text = load_addon(str(path), make_project(tmp_path)).render(VIEW)

    assert yaml.safe_load(text)["data"]["key"] == filled


def test_a_value_cannot_change_an_addons_structure(tmp_path: Path) -> None:
    path = plant(tmp_path, f'{OBJECT}  key: "name: {{{{ domain }}}}"\n')
    hostile = {**VIEW, "domain": "x\nkind: Secret\n---\n"}

    text = load_addon(str(path), make_project(tmp_path)).render(hostile)

    (document,) = yaml.safe_load_all(text)
    assert document["kind"] == "ConfigMap"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f'{OBJECT}  key: "{{{{ nosuch }}}}"\n', "nosuch }} names nothing"),
        ("a: [\n", "is not YAML"),
        ("just: words\n", "document 1 of add-on extra is not a Kubernetes object"),
    ],
    ids=["undefined", "syntax", "no object"],
)
def test_a_wrong_addon_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = plant(tmp_path, text)

    with pytest.raises(ConfigError, match=said) as error:
        load_addon(str(path), make_project(tmp_path)).render(VIEW)

    assert error.value.problems[0].where == str(path)


def test_coredns_runs_the_version_of_the_image_and_pulls_nothing(tmp_path: Path) -> None:
    files = render_files(tmp_path, versions={"coredns": "9.9.9"})
    documents = list(yaml.safe_load_all(files["/etc/kubernetes/addons/coredns.yaml"].content))

    deployment = next(d for d in documents if d["kind"] == "Deployment")

    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.k8s.io/coredns/coredns:v9.9.9"
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert deployment["spec"]["replicas"] == 1
