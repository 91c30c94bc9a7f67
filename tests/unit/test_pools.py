# SPDX-License-Identifier: Apache-2.0
"""Does a pool's one user-data serve any machine of it, and no other, and hold no other's secret?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cloudinit.model import Node
from cloudinit.nodepool import NodePool
from cloudinit.part import Context
from cloudinit.parts import network
from cloudinit.render import render_cluster
from cloudinit.sizing import DNS_TOLERATES, dns_replicas
from cloudinit.userdata import MANIFEST_PATH
from kubekiln.errors import ConfigError
from kubekiln.operations.seed import write_seed
from tests.support.clusters import (
    BATCH,
    CONFIGS,
    NOW,
    WEB,
    make_cluster,
    make_project,
    make_state,
    pools,
    render_example,
)

MASTERS = "node-role.kubernetes.io/control-plane"


@pytest.mark.parametrize(
    ("taint", "count"),
    [
        ({"key": "dedicated", "value": "batch", "effect": "PreferNoSchedule"}, 2),
        ({"key": "dedicated", "value": "batch", "effect": "NoSchedule"}, 1),
        ({"key": "dedicated", "effect": "NoExecute"}, 1),
        ({"key": "CriticalAddonsOnly", "value": "x", "effect": "NoExecute"}, 2),
        ({"key": MASTERS, "effect": "NoSchedule"}, 2),
        ({"key": MASTERS, "effect": "NoExecute"}, 1),
        ({"key": MASTERS, "value": "x", "effect": "NoSchedule"}, 1),
    ],
)
def test_the_name_service_waits_for_no_machine_that_may_never_come(
    taint: dict[str, str], count: int
) -> None:
    harmless = {"key": "CriticalAddonsOnly", "effect": "NoSchedule"}

    assert dns_replicas(make_cluster(**pools({}))) == 2
    assert dns_replicas(make_cluster(**pools({"taints": [harmless, taint]}))) == count
    assert dns_replicas(make_cluster(**pools({"taints": [taint]}, WEB))) == 2


def test_the_name_service_tolerates_what_its_manifest_says() -> None:
    documents = yaml.safe_load_all((CONFIGS / "addons/coredns.yaml").read_text())
    (pod,) = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "Deployment"]

    said = tuple(
        (
            entry["key"],
            None if entry.get("operator") == "Exists" else entry.get("value", ""),
            entry.get("effect"),
        )
        for entry in pod["tolerations"]
    )
    assert said == DNS_TOLERATES


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The example's payloads: name → path → content."""
    rendered = render_example(tmp_path_factory.mktemp("pool"), "pool")
    return {
        name: {path: f.content for path, f in files.items()} for name, files in rendered.items()
    }


def test_a_pools_payload_has_one_secret(example: dict[str, dict[str, bytes]]) -> None:
    batch, master = example["batch"], example["pl-master-1"]
    token = batch["/etc/kubernetes/bootstrap-token"].strip()

    assert re.fullmatch(rb"[a-z0-9]{6}\.[a-z0-9]{16}", token)
    assert not [path for path, content in batch.items() if b"PRIVATE KEY" in content]
    assert [path for path in batch if path.endswith((".key", ".crt"))] == [
        "/etc/kubernetes/pki/ca.crt"
    ]
    assert [p for p in batch if token.split(b".")[1] in batch[p]] == [
        "/etc/kubernetes/bootstrap-token"
    ]
    assert [p for p in master if token.split(b".")[1] in master[p]] == [
        "/etc/kubernetes/bootstrap/20-pools.yaml"
    ]


def test_nothing_in_it_names_one_machine(example: dict[str, dict[str, bytes]]) -> None:
    manifest = json.loads(example["batch"][MANIFEST_PATH])

    assert "node" not in manifest
    assert manifest["pool"]["prefix"] == "batch-"
    assert "/etc/systemd/network/05-kubekiln.network" not in example["batch"]
    assert b"NODE_IP" not in example["batch"]["/etc/kubernetes/kubelet.env"]


def test_a_part_that_asks_which_machine_it_is_has_no_place_in_a_pool(tmp_path: Path) -> None:
    cluster, project = make_cluster(**pools({})), make_project(tmp_path)
    context = Context(cluster, cluster.pools[0], make_state(tmp_path), project, {})

    with pytest.raises(AssertionError, match="which of its machines"):
        network.render(context)


def test_its_nodes_have_its_label_its_labels_and_its_taints(
    example: dict[str, dict[str, bytes]],
) -> None:
    configuration = yaml.safe_load(example["batch"]["/var/lib/kubelet/config.yaml"])

    assert (
        b"NODE_LABELS=kubekiln/pool=batch,example.com/kind=batch\n"
        in (example["batch"]["/etc/kubernetes/kubelet.env"])
    )
    assert configuration["registerWithTaints"] == [
        {"effect": "PreferNoSchedule", "key": "dedicated", "value": "batch"}
    ]


def test_a_taint_stays_text(tmp_path: Path) -> None:
    taint = {"key": "no", "value": "true", "effect": "NoExecute"}
    project, cluster = make_project(tmp_path), make_cluster(**pools({"taints": [taint]}))
    rendered = render_cluster(cluster, project=project, now=NOW).pools[0]

    files = yaml.safe_load((rendered.directory / "user-data").read_text())["write_files"]
    text = next(f["content"] for f in files if f["path"] == "/var/lib/kubelet/config.yaml")
    assert yaml.safe_load(text)["registerWithTaints"] == [taint]


def test_masters_let_it_ask_and_nothing_more(example: dict[str, dict[str, bytes]]) -> None:
    master = example["pl-master-1"]
    objects = list(yaml.safe_load_all(master["/etc/kubernetes/bootstrap/20-pools.yaml"]))
    group = "system:bootstrappers:kubekiln:batch"
    bound = [
        item["roleRef"]["name"]
        for item in objects
        for subject in item.get("subjects", [])
        if subject["name"] == group
    ]
    secret = objects[-1]["stringData"]

    assert bound == ["system:node-bootstrapper"]
    assert secret["auth-extra-groups"] == group
    assert secret["usage-bootstrap-authentication"] == "true"
    assert "usage-bootstrap-signing" not in secret
    assert secret["expiration"] == "2026-12-23T06:00:00Z"
    assert b"BOOTSTRAP_TOKENS=true\n" in master["/etc/kubernetes/kube-apiserver.env"]


def test_without_a_pool_no_token_is_taken(tmp_path: Path) -> None:
    solo = render_example(tmp_path, "solo")["solo-1"]

    assert b"BOOTSTRAP_TOKENS=false\n" in solo["/etc/kubernetes/kube-apiserver.env"].content
    assert "/etc/kubernetes/bootstrap/20-pools.yaml" not in solo
    assert "pools" not in json.loads(solo["/etc/kubekiln/csr-approver.json"].content)


POOL = NodePool.model_validate(BATCH)


@given(st.text(alphabet="abch-0.A", max_size=70))
def test_a_name_that_a_pool_takes_is_one_that_kubernetes_takes(rest: str) -> None:
    name = f"batch-{rest}"

    if POOL.takes(name):
        Node.model_validate({"name": name, "role": "worker", "address": "10.0.0.1"})
    else:
        assert not re.fullmatch(r"[a-z0-9-]{0,56}[a-z0-9]", rest)


def test_a_seed_is_the_pools_user_data_with_a_name(tmp_path: Path) -> None:
    project, cluster = make_project(tmp_path), make_cluster(**pools({}))
    with pytest.raises(ConfigError, match="was not rendered yet"):
        write_seed(project, cluster, "batch-7")
    rendered = render_cluster(cluster, project=project, now=NOW).pools[0]

    seed = write_seed(project, cluster, "batch-7")

    assert sorted(p.name for p in seed.iterdir()) == ["meta-data", "seed.iso", "user-data"]
    assert (seed / "user-data").read_bytes() == rendered.user_data.read_bytes()
    assert yaml.safe_load((seed / "meta-data").read_text())["local-hostname"] == "batch-7"
    assert "hostname" not in yaml.safe_load(rendered.user_data.read_text())
    with pytest.raises(ConfigError, match="no pool for a machine called 'web-1'"):
        write_seed(project, cluster, "web-1")


def test_a_seeds_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    project, cluster = make_project(tmp_path), make_cluster(**pools({}))
    render_cluster(cluster, project=project, now=NOW)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)

    write_seed(project, cluster, "batch-7", into=shared)
    write_seed(project, cluster, "batch-8", into=shared / "a" / "b")

    modes = [p.stat().st_mode & 0o7777 for p in (shared, shared / "a", shared / "a" / "b")]
    assert modes == [0o1777, 0o700, 0o700]
    assert (shared / "user-data").stat().st_mode & 0o777 == 0o600
