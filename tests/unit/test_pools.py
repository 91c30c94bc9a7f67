# SPDX-License-Identifier: Apache-2.0
"""Does a pool's one user-data serve any machine of it, and no other, and hold no other's secret?"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cloudinit.model import Node
from cloudinit.nodepool import NodePool
from cloudinit.part import Context
from cloudinit.parts import network
from cloudinit.poolrules import POOL_RULES
from cloudinit.render import render_cluster
from cloudinit.rules import load_cluster
from cloudinit.sizing import DNS_TOLERATES, dns_replicas
from cloudinit.statefile import decode
from cloudinit.userdata import MANIFEST_PATH
from kubekiln.cli.cluster import app
from kubekiln.errors import ConfigError
from kubekiln.operations import tokens as operation
from kubekiln.operations.seed import write_seed
from tests.support.clusters import (
    CONFIGS,
    NOW,
    cluster_data,
    make_cluster,
    make_project,
    make_state,
    render_example,
    snapshot,
    write_cluster,
)

MASTER = {"name": "m-1", "role": "master", "address": "10.80.0.11"}
BATCH = {"name": "batch", "addresses": "10.80.0.128/25", "max_nodes": 50}


def pools(*changes: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    """A cluster of one master and of pools, each `batch` but for its changes."""
    return {"nodes": [MASTER], "pools": [BATCH | change for change in changes], **cluster}


OTHER = {"name": "web", "addresses": "10.80.0.64/26", "max_nodes": 20}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "a single node": (
        pools({}, nodes=[{**MASTER, "role": "single"}]),
        "no master to join", "pools",
    ),
    "a node's name": (
        pools({"prefix": "x-"}, nodes=[{**MASTER, "name": "batch"}]),
        "name batch is already that of node batch", "pools[0].name",
    ),
    "two of one name": (
        pools({}, OTHER | {"name": "batch", "prefix": "x-"}),
        "already that of pool 1", "pools[1].name",
    ),
    "a node's name begins so": (
        pools({"prefix": "m"}), "prefix m of pool batch fits the node m-1", "pools[0].prefix",
    ),
    "one prefix begins another": (
        pools({}, OTHER | {"prefix": "batch-gpu-"}), "fit the same names", "pools[1].prefix",
    ),
    "a capital": (pools({"prefix": "Batch-"}), "is not how a host name begins", "pools[0].prefix"),
    "elsewhere": (
        pools({"addresses": "10.81.0.0/25"}), "not in node_cidr", "pools[0].addresses",
    ),
    "a node's address": (
        pools({"addresses": "10.80.0.0/28"}), "10.80.0.11 of m-1", "pools[0].addresses",
    ),
    "the gateway": (
        pools({"addresses": "10.80.0.0/29", "max_nodes": 5}),
        "of the gateway", "pools[0].addresses",
    ),
    "the API": (
        pools({}, api={"vip": "10.80.0.200"}), "of the API (api.vip)", "pools[0].addresses",
    ),
    "two of one range": (
        pools({}, OTHER | {"addresses": "10.80.0.192/26"}), "overlap", "pools[1].addresses",
    ),
    "too many for the range": (
        pools({"max_nodes": 128}), "has 127 addresses for max_nodes 128", "pools[0].max_nodes",
    ),
    "too many for the pods": (
        pools({}, network={"pod_cidr": "10.244.0.0/19"}),
        "has parts for 32 nodes of 51", "network.pod_cidr",
    ),
    "a token for ever": (pools({"token_ttl_hours": 9999}), "8760", "pools[0].token_ttl_hours"),
    "a pool of two families": (
        pools(
            {},
            nodes=[{**MASTER, "address": ["10.80.0.11", "fd00:80::11"]}],
            network={
                "node_cidr": ["10.80.0.0/24", "fd00:80::/64"],
                "pod_cidr": ["10.244.0.0/16", "fd00:244::/56"],
                "service_cidr": ["10.96.0.0/16", "fd00:96::/112"],
            },
        ),
        "the nodes have IPv4 and IPv6", "pools",
    ),
    "a label of others": (
        pools({"labels": {"node-role.kubernetes.io/batch": ""}}),
        "may not give itself the label", "pools[0].labels",
    ),
    "a label that is none": (
        pools({"labels": {"a": "b c"}}), "'b c' is not the value of a label", "pools[0].labels",
    ),
    "a taint that is none": (
        pools({"taints": [{"key": "a=b", "effect": "NoExecute"}]}),
        "'a=b' is not the key of a taint", "pools[0].taints[0]",
    ),
    "a taint's value": (
        pools({"taints": [{"key": "a", "value": "-", "effect": "NoExecute"}]}),
        "'-' is not the value of a taint", "pools[0].taints[0]",
    ),
    "no effect": (pools({"taints": [{"key": "a", "effect": "Nothing"}]}), "NoSchedule", "effect"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said", "where"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_named_with_its_place(
    tmp_path: Path, changes: dict[str, Any], said: str, where: str
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data(**changes))

    with pytest.raises(ConfigError) as error:
        load_cluster("lab", project)

    assert said in str(error.value)
    found = error.value.problems[0].where or ""
    assert found.startswith(f"{path}:") and where in found


def test_every_rule_has_something_against_a_bad_cluster() -> None:
    fired = set()
    for changes, _, _ in WRONG.values():
        try:
            cluster = make_cluster(**changes)
        except ValueError:
            continue
        fired |= {rule for rule in POOL_RULES if list(rule(cluster))}

    assert fired == set(POOL_RULES)


def test_two_pools_beside_declared_workers_are_fine(tmp_path: Path) -> None:
    worker = {"name": "w-1", "role": "worker", "address": "10.80.0.21"}
    project = make_project(tmp_path)
    write_cluster(project, cluster_data(**pools({}, OTHER, nodes=[MASTER, worker])))

    assert load_cluster("lab", project).sized_for == 72


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
    assert dns_replicas(make_cluster(**pools({"taints": [taint]}, OTHER))) == 2


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


def rendered_token(root: Path, *, days: float = 0, **changes: Any) -> str:
    project, cluster = make_project(root), make_cluster(**pools(changes))
    render_cluster(cluster, project=project, now=NOW + timedelta(days=days))
    path = project.state_dir / "lab" / "state"
    return decode(path.read_bytes(), path=path, cluster="lab").tokens["batch"].token_id


def test_a_token_is_kept_until_the_last_third_of_its_life(tmp_path: Path) -> None:
    first = rendered_token(tmp_path)
    before = snapshot(tmp_path)

    assert rendered_token(tmp_path, days=19.9) == first
    assert snapshot(tmp_path) == before
    assert rendered_token(tmp_path, days=20.1) != first


def test_a_token_that_was_made_by_a_clock_ahead_is_made_anew(tmp_path: Path) -> None:
    rendered_token(tmp_path)
    ahead = rendered_token(tmp_path, days=25)

    assert rendered_token(tmp_path, days=24.97) == ahead
    assert rendered_token(tmp_path) != ahead


def test_a_token_of_another_life_is_another_one(tmp_path: Path) -> None:
    assert rendered_token(tmp_path) != rendered_token(tmp_path, token_ttl_hours=24)


def test_a_token_that_leaked_is_in_nothing_that_is_rendered_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data(**pools({}, OTHER)))
    monkeypatch.chdir(tmp_path)
    cluster = load_cluster(str(path), project)
    render_cluster(cluster, project=project)
    batch, gpu = operation.rendered_tokens(project, cluster)

    with pytest.raises(ConfigError, match="has no pool nosuch") as error:
        operation.renew_tokens(project, cluster, ["nosuch"])
    said = CliRunner().invoke(app, ["tokens", "lab", "--renew", "batch"], catch_exceptions=False)

    left = b"".join(snapshot(tmp_path / "build" / "nodes").values())
    new, same = operation.rendered_tokens(project, cluster)
    assert batch.token.token_id.encode() not in left and new.token.token_id.encode() in left
    assert same == gpu and gpu.token.token_id.encode() in left
    assert f"delete secret bootstrap-token-{batch.token.token_id}" in said.output
    assert batch.token.secret.reveal_text() not in said.output
    assert "batch, " in str(error.value)


def test_the_token_of_a_pool_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    rendered_token(tmp_path)
    render_cluster(make_cluster(nodes=[MASTER]), project=make_project(tmp_path), now=NOW)

    path = tmp_path / "state" / "lab" / "state"
    assert decode(path.read_bytes(), path=path, cluster="lab").tokens == {}
    assert not (tmp_path / "build" / "nodes" / "lab" / "batch").exists()


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


def test_a_list_of_tokens_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, cluster = make_project(tmp_path), make_cluster(**pools({}))
    write_cluster(project, cluster_data(**pools({})))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no token yet for pool batch"):
        operation.rendered_tokens(project, cluster)
    render_cluster(cluster, project=project, now=NOW)
    (found,) = operation.rendered_tokens(project, cluster)

    said = CliRunner().invoke(app, ["tokens", "lab"], catch_exceptions=False).output
    objects = CliRunner().invoke(app, ["tokens", "lab", "--manifest"]).output

    assert found.token.token_id in said and "2026-12-23" in said
    assert found.token.secret.reveal_text() not in said
    assert found.token.secret.reveal_text() in objects
