# SPDX-License-Identifier: Apache-2.0
"""Does each role get what it needs, and nothing that it must not have?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from cloudinit.keyplaces import KEY_PLACES
from cloudinit.part import NodeFile
from cloudinit.roles import ROLES
from cloudinit.userdata import MANIFEST_PATH
from tests.support.clusters import CONFIGS, render_example, render_files
from tests.support.keyscan import keys_in

EXAMPLES = sorted(path.stem for path in (CONFIGS / "clusters").glob("*.yaml"))
# What is only of kubeadm's way is in test_kubeadm.py.
KUBEADM = "kubeadm"
PKI = "/etc/kubernetes/pki"
_OTHERS = re.compile(
    r"^/(usr|run|tmp|opt)/|^/var/(log|lib/etcd)|^/etc/kubernetes/(addons|bootstrap)$"
    r"|^/etc/coredns(/Corefile)?$|^/var/lib/kubelet/pki/"
)
# Units that the image brings, for roles that run pods.
IN_IMAGE = {"kubekiln-metadata.service"}
# The kubelet of a pool's machine writes the first; a drop-in takes the place of the second.
IN_POOLS = {"/etc/kubernetes/kubelet.conf", "/etc/flannel/flanneld.env"}
_MADE_BY_KUBEADM = re.compile(
    r"^/etc/kubernetes/(bootstrap-)?kubelet\.conf$|^/var/lib/kubelet/(config\.yaml|kubeadm-flags\.env)$"
    r"|^/etc/kubernetes/kubeadm$"
)
Files = Mapping[str, NodeFile]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, NodeFile]]]:
    """Every example, rendered once: cluster → node → path → file."""
    return {name: render_example(tmp_path_factory.mktemp(name), name) for name in EXAMPLES}


Rendered = dict[str, dict[str, dict[str, NodeFile]]]


def role_of(files: Files) -> str:
    return str(json.loads(files[MANIFEST_PATH].content)["role"])


def nodes_of(examples: Rendered, *roles: str) -> list[Files]:
    clusters = [cluster for name, cluster in examples.items() if name != KUBEADM]
    nodes = [files for cluster in clusters for files in cluster.values()]
    return [files for files in nodes if role_of(files) in roles]


def test_the_examples_have_every_role(examples: Rendered) -> None:
    roles = {role_of(f) for cluster in examples.values() for f in cluster.values()}
    assert roles == set(ROLES["systemd"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_unit_that_is_started_is_written_and_the_reverse(
    examples: Rendered, name: str
) -> None:
    for files in examples[name].values():
        wanted = json.loads(files[MANIFEST_PATH].content)["units"]
        written = {p.rpartition("/")[2] for p in files if p.endswith(".service")}

        assert written == set(wanted) - IN_IMAGE
        assert (set(wanted) >= IN_IMAGE) == (role_of(files) not in ("etcd", "lb"))
        dropin = files["/etc/systemd/system/kubekiln.target.d/10-role.conf"].content.decode()
        assert f"Wants={' '.join(wanted)}\n" in dropin


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_file_that_a_configuration_names_is_there(examples: Rendered, name: str) -> None:
    for node, files in examples[name].items():
        named = names_in(files)

        assert len(named) >= 5
        own = IN_POOLS if role_of(files) == "pool" else set()
        missing = [p for p in named - own if p not in files and not _OTHERS.match(p)]
        assert [p for p in missing if name != KUBEADM or not _MADE_BY_KUBEADM.match(p)] == [], node


def names_in(files: Files) -> set[str]:
    named: set[str] = set()
    for file in files.values():
        if file.path == MANIFEST_PATH or b"-----BEGIN" in file.content:
            continue
        unit_name = file.path.rpartition("/")[2].removesuffix(".service")
        content = file.content.decode().replace("%N", unit_name)
        text = re.sub(r"^\s*#.*$", "", content, flags=re.MULTILINE)
        named |= set(re.findall(r"(?<![\w.:/-])(/(?:etc|var|run|usr|tmp|opt)/[\w./-]+)", text))
    return named


def foreign_secrets(files: Files, cluster: Mapping[str, Files]) -> list[str]:
    """Name what a node holds that belongs to the control plane or to another node.

    A private key belongs to a node if it stands nowhere else; what several masters share is theirs.
    """
    if role_of(files) in ("master", "single"):
        return []
    others: set[bytes] = set()
    for other in cluster.values():
        if other is not files:
            others |= {key for file in other.values() for key in keys_in(file.content)}
    return [
        file.path
        for file in files.values()
        if keys_in(file.content) & others
        or b"secret: " in file.content
        or file.path.endswith("ca.key")
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_nobody_but_a_master_holds_a_secret_that_is_not_its_own(
    examples: Rendered, name: str
) -> None:
    for node, files in examples[name].items():
        assert foreign_secrets(files, examples[name]) == [], node


@pytest.mark.parametrize(
    "path", [f"{PKI}/ca.key", f"{PKI}/sa.key", f"{PKI}/admin.key", f"{PKI}/kubelet.key",
             "/etc/kubernetes/encryption.yaml", "/etc/etcd/pki/etcd.key"]
)  # fmt: skip
def test_the_search_finds_what_is_planted(examples: Rendered, path: str) -> None:
    cluster = examples["ha-stacked"]
    worker, master = cluster["hs-worker-1"], cluster["hs-master-1"]

    planted = {**worker, "/etc/planted": master[path]}

    assert foreign_secrets(planted, {**cluster, "hs-worker-1": planted}) != []


def test_private_keys_are_where_the_table_has_them_and_nowhere_else(examples: Rendered) -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for name, cluster in examples.items():
        for files in cluster.values():
            kind = ("kubeadm" if name == KUBEADM else "systemd", role_of(files))
            paths = {file.path for file in files.values() if keys_in(file.content)}
            found[kind] = found.get(kind, set()) | paths

    places: dict[tuple[str, str], object] = {
        (way, role): paths for way, roles in KEY_PLACES.items() for role, paths in roles.items()
    }
    assert len(found) == 8
    assert found == {kind: places[kind] for kind in found}


def test_kube_proxy_and_flannel_are_the_kubelet_that_may_write_its_own_node(
    examples: Rendered,
) -> None:
    nodes = [f for c in examples.values() for f in c.values() if role_of(f) not in ("etcd", "lb")]

    for files in nodes:
        pair = {"client-certificate": f"{PKI}/kubelet.crt", "client-key": f"{PKI}/kubelet.key"}
        if role_of(files) == "pool":
            pair = dict.fromkeys(pair, "/var/lib/kubelet/pki/kubelet-client-current.pem")
        for who in ("kube-proxy", "flannel"):
            said = yaml.safe_load(files[f"/etc/kubernetes/{who}.conf"].content)
            assert said["users"][0]["user"] == pair
        if role_of(files) == "worker":
            assert [p for p in files if p.endswith(".key")] == [f"{PKI}/kubelet.key"]


def test_no_role_of_ours_may_write_nodes(examples: Rendered) -> None:
    for cluster in examples.values():
        for files in cluster.values():
            for path in (p for p in files if p.startswith("/etc/kubernetes/bootstrap/")):
                for document in yaml.safe_load_all(files[path].content):
                    for rule in document.get("rules", ()):
                        wide = {"nodes", "nodes/status", "*"} & set(rule["resources"])
                        assert not wide or set(rule["verbs"]) <= {"get", "list", "watch"}


def test_machines_without_a_kubelet_have_no_identity_in_kubernetes(examples: Rendered) -> None:
    for files in nodes_of(examples, "etcd", "lb"):
        assert not [path for path in files if path.endswith(".conf") and "kubernetes" in path]
        assert not [path for path in files if path.startswith(PKI) and path.endswith(".key")]


def test_masters_share_what_their_cluster_has_once(examples: Rendered) -> None:
    masters = [f for f in examples["ha-stacked"].values() if role_of(f) == "master"]

    for shared in (f"{PKI}/sa.key", f"{PKI}/ca.key", "/etc/kubernetes/encryption.yaml"):
        assert len({files[shared].content for files in masters}) == 1
    for own in (f"{PKI}/apiserver.key", "/etc/etcd/pki/etcd.key", f"{PKI}/kubelet.key"):
        assert len({files[own].content for files in masters}) == len(masters)


@pytest.mark.parametrize(
    ("name", "node", "more"),
    [
        ("ha-stacked", "hs-master-2", {"10.82.0.10", "10.82.0.12"}),
        ("ha-external", "he-master-1", {"10.83.0.10", "10.83.0.21", "10.83.0.31", "10.83.0.32"}),
        ("single-master", "sm-master-1", {"10.81.0.11"}),
    ],
)
def test_a_client_may_use_every_name_and_address_of_the_api(
    examples: Rendered, name: str, node: str, more: set[str]
) -> None:
    certificate = x509.load_pem_x509_certificate(
        examples[name][node][f"{PKI}/apiserver.crt"].content
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    addresses = {"127.0.0.1", "::1", "10.96.0.1", *more}
    assert set(names.get_values_for_type(x509.IPAddress)) == {ip_address(a) for a in addresses}
    for known in (node, "localhost", "kubernetes", "kubernetes.default.svc.cluster.local"):
        assert known in names.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    ("name", "node", "servers"),
    [
        ("solo", "solo-1", "https://127.0.0.1:2379"),
        ("ha-stacked", "hs-master-1", "https://127.0.0.1:2379"),
        (
            "ha-external",
            "he-master-1",
            "https://10.83.0.11:2379,https://10.83.0.12:2379,https://10.83.0.13:2379",
        ),
    ],
)
def test_an_api_server_asks_its_own_member_or_all(
    examples: Rendered, name: str, node: str, servers: str
) -> None:
    environment = examples[name][node]["/etc/kubernetes/kube-apiserver.env"].content.decode()

    assert f"ETCD_SERVERS={servers}\n" in environment


def test_members_know_each_other_from_the_beginning(examples: Rendered) -> None:
    for name, prefix in (("ha-stacked", "hs-master"), ("ha-external", "he-etcd")):
        seen = set()
        for files in examples[name].values():
            if "/etc/etcd/etcd.env" not in files:
                continue
            text = files["/etc/etcd/etcd.env"].content.decode()
            seen.add(re.findall(r"^ETCD_INITIAL_CLUSTER=(.*)$", text, re.MULTILINE)[0])

        assert len(seen) == 1
        assert re.findall(r"([\w-]+)=https", seen.pop()) == [f"{prefix}-{i}" for i in (1, 2, 3)]


def test_nodes_find_the_api_on_their_own_loopback(examples: Rendered) -> None:
    for files in nodes_of(examples, "master", "worker"):
        server = yaml.safe_load(files["/etc/kubernetes/kubelet.conf"].content)["clusters"][0]

        assert server["cluster"]["server"] == "https://127.0.0.1:7443"
        assert "bind 127.0.0.1:7443\n" in files["/etc/haproxy/haproxy.cfg"].content.decode()


def test_a_single_node_that_keeps_pods_off_has_its_taint_and_its_part_of_the_pod_network(
    tmp_path: Path,
) -> None:
    files = render_files(tmp_path, kubelet={"pods_on_masters": False})

    spec = yaml.safe_load(files["/etc/kubernetes/bootstrap/10-node.yaml"].content)["spec"]
    assert spec == {
        "taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}],
        "podCIDR": "10.244.0.0/24",
        "podCIDRs": ["10.244.0.0/24"],
    }


def test_only_masters_beside_workers_keep_pods_off(examples: Rendered) -> None:
    def taints(files: Files) -> object:
        return yaml.safe_load(files["/var/lib/kubelet/config.yaml"].content).get(
            "registerWithTaints"
        )

    assert all(taints(files) for files in nodes_of(examples, "master"))
    assert not any(taints(files) for files in nodes_of(examples, "worker", "single"))
