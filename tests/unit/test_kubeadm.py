# SPDX-License-Identifier: Apache-2.0
"""Does kubeadm's way give each machine what kubeadm needs, and nothing that it must not have?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from cloudinit.part import NodeFile
from cloudinit.pki import load_key, public_pem
from kubekiln.secret import Secret
from tests.support.clusters import render_example, render_files
from tests.support.units import CIS_APISERVER

PKI = "/etc/kubernetes/pki"
INIT, JOIN = "/etc/kubernetes/kubeadm/init.yaml", "/etc/kubernetes/kubeadm/join.yaml"
Files = Mapping[str, NodeFile]
# What kubeadm 1.37 gives every API server (phases/controlplane/manifests.go).
KUBEADMS = {
    "--authorization-mode=Node,RBAC", "--client-ca-file", "--etcd-cafile", "--etcd-certfile",
    "--etcd-keyfile", "--kubelet-client-certificate", "--kubelet-client-key",
    "--service-account-key-file", "--tls-cert-file", "--tls-private-key-file",
}  # fmt: skip


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, NodeFile]]:
    """The example, rendered once: node → path → file."""
    return render_example(tmp_path_factory.mktemp("kubeadm"), "kubeadm")


def documents(file: NodeFile) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(file.content)}


def with_names(flags: set[str]) -> set[str]:
    return flags | {flag.split("=")[0] for flag in flags}


def single(root: Path, **changes: Any) -> dict[str, NodeFile]:
    return render_files(root, bootstrap="kubeadm", **changes)


def test_the_first_master_alone_may_make_a_cluster(nodes: dict[str, Files]) -> None:
    assert [name for name, files in nodes.items() if INIT in files] == ["ka-master-1"]
    assert [name for name, files in nodes.items() if JOIN in files] == list(nodes)
    for name, files in nodes.items():
        assert ("controlPlane" in documents(files[JOIN])["JoinConfiguration"]) == (
            name != "ka-worker-1"
        )


def test_a_worker_holds_neither_a_key_of_an_authority_nor_a_token(nodes: dict[str, Files]) -> None:
    worker, master = nodes["ka-worker-1"], nodes["ka-master-1"]
    secrets = {f"{PKI}/{name}.key" for name in ("ca", "etcd/ca", "front-proxy-ca", "sa")}

    assert secrets <= master.keys()
    assert not secrets & worker.keys()
    contents = b"".join(file.content for file in worker.values())
    assert not any(master[path].content in contents for path in secrets)
    assert b"token" not in contents.lower()


def test_masters_share_the_authorities_and_the_key_of_tokens(nodes: dict[str, Files]) -> None:
    masters = [files for name, files in nodes.items() if "master" in name]

    for name in ("ca.crt", "etcd/ca.key", "front-proxy-ca.key", "sa.key", "sa.pub"):
        assert len({files[f"{PKI}/{name}"].content for files in masters}) == 1
    assert len({files[f"{PKI}/kubelet.key"].content for files in masters}) == len(masters)


@pytest.mark.parametrize("algorithm", ["p256", "rsa2048"])
def test_the_public_key_is_that_of_the_key_of_tokens(algorithm: str, tmp_path: Path) -> None:
    files = single(tmp_path, pki={"algorithm": algorithm})
    key = Secret(files[f"{PKI}/sa.key"].content)

    assert files[f"{PKI}/sa.pub"].content == public_pem(key)
    public = serialization.load_pem_public_key(files[f"{PKI}/sa.pub"].content)
    assert public == load_key(key).public_key()


def test_what_is_configured_reaches_kubeadm(tmp_path: Path) -> None:
    files = single(
        tmp_path,
        api={"port": 6444, "extra_sans": ["api.example.org"]},
        etcd={"election_ms": 4000, "quota_mib": 100},
        kubelet={"max_pods": 50},
        leader_election={"lease_s": 60, "renew_s": 40, "retry_s": 10},
        network={"pod_cidr": "10.32.0.0/12", "node_mask": 25, "domain": "lab.example"},
        pki={"algorithm": "p384", "leaf_days": 30},
    )

    found = documents(files[INIT])
    wanted, registration = found["ClusterConfiguration"], found["InitConfiguration"]
    assert wanted["controlPlaneEndpoint"] == "127.0.0.1:6444"
    assert registration["localAPIEndpoint"] == {"advertiseAddress": "10.80.0.11", "bindPort": 6444}
    assert "Port-6444" in registration["nodeRegistration"]["ignorePreflightErrors"]
    assert "api.example.org" in wanted["apiServer"]["certSANs"]
    assert {"name": "quota-backend-bytes", "value": str(100 << 20)} in (
        wanted["etcd"]["local"]["extraArgs"]
    )
    assert {"name": "etcd-readycheck-timeout", "value": "8s"} in wanted["apiServer"]["extraArgs"]
    assert {"name": "node-cidr-mask-size-ipv4", "value": "25"} in (
        wanted["controllerManager"]["extraArgs"]
    )
    for component in ("controllerManager", "scheduler"):
        assert {"name": "leader-elect-lease-duration", "value": "60s"} in (
            wanted[component]["extraArgs"]
        )
    assert (wanted["encryptionAlgorithm"], wanted["certificateValidityPeriod"]) == (
        "ECDSA-P384", "720h0m0s"
    )  # fmt: skip
    assert wanted["networking"]["podSubnet"] == "10.32.0.0/12"
    assert found["KubeletConfiguration"]["maxPods"] == 50
    assert found["KubeletConfiguration"]["clusterDomain"] == "lab.example"


def test_both_families_reach_kubeadm(tmp_path: Path) -> None:
    files = single(
        tmp_path,
        network={"node_cidr": ["10.80.0.0/24", "fd80::/64"]},
        nodes=[{"name": "lab-1", "role": "single", "address": ["10.80.0.11", "fd80::11"]}],
    )

    found = documents(files[INIT])
    wanted = found["ClusterConfiguration"]
    assert wanted["networking"]["podSubnet"].count("/") == 2
    assert wanted["networking"]["serviceSubnet"].count("/") == 2
    assert {"name": "node-ip", "value": "10.80.0.11,fd80::11"} in (
        found["InitConfiguration"]["nodeRegistration"]["kubeletExtraArgs"]
    )
    # The first one kubeadm adds by itself.
    assert "fd80::11" in wanted["apiServer"]["certSANs"]
    assert "10.80.0.11" not in wanted["apiServer"]["certSANs"]


def test_the_certificates_that_kubeadm_makes_name_every_masters_further_cards(
    tmp_path: Path,
) -> None:
    nodes = [
        {"name": f"m-{i}", "role": "master", "address": f"10.80.0.1{i}",
         "nics": [{"address": f"10.90.0.1{i}/24"}]}
        for i in (1, 2, 3)
    ]  # fmt: skip

    files = render_files(tmp_path, bootstrap="kubeadm", nodes=nodes)

    names = documents(files[INIT])["ClusterConfiguration"]["apiServer"]["certSANs"]
    for i in (1, 2, 3):
        assert {f"m-{i}.cluster.local", f"10.90.0.1{i}"} <= set(names)
        assert not {f"m-{i}", f"10.80.0.1{i}"} & set(names)


def test_a_single_machine_has_nobody_to_join(tmp_path: Path) -> None:
    files = single(tmp_path)

    assert INIT in files and JOIN not in files
    assert "/etc/haproxy/haproxy.cfg" not in files


def test_pods_are_kept_off_masters_beside_workers_alone(
    nodes: dict[str, Files], tmp_path: Path
) -> None:
    def taints(file: NodeFile, kind: str) -> object:
        return documents(file)[kind]["nodeRegistration"].get("taints", "kubeadm's default")

    assert taints(nodes["ka-master-2"][JOIN], "JoinConfiguration") == "kubeadm's default"
    assert taints(nodes["ka-worker-1"][JOIN], "JoinConfiguration") == []
    assert taints(single(tmp_path)[INIT], "InitConfiguration") == []


def test_the_images_are_those_that_the_machines_image_has(nodes: dict[str, Files]) -> None:
    wanted = documents(nodes["ka-master-1"][INIT])["ClusterConfiguration"]
    lock = yaml.safe_load((Path(__file__).parents[2] / "configs/components.lock.yaml").read_text())
    carried = [
        image["reference"]
        for component in ("etcd", "kubernetes")
        for release in lock["components"][component].values()
        for image in release["images"]
    ]

    assert f"registry.k8s.io/etcd:{wanted['etcd']['local']['imageTag']}" in carried
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        assert f"registry.k8s.io/{name}:{wanted['kubernetesVersion']}" in carried


def test_the_api_server_keeps_to_the_policies_of_the_other_way(nodes: dict[str, Files]) -> None:
    files = nodes["ka-master-1"]
    server = documents(files[INIT])["ClusterConfiguration"]["apiServer"]
    arguments = {argument["name"]: argument["value"] for argument in server["extraArgs"]}
    unit = (Path(__file__).parents[2] / "cloudinit/units/kube-apiserver.service").read_text()

    assert with_names({f"--{n}={v}" for n, v in arguments.items()} | KUBEADMS) >= CIS_APISERVER
    for name, value in arguments.items():
        assert f"--{name}={value} \\\n" in unit, name
    ciphers = documents(files[INIT])["KubeletConfiguration"]["tlsCipherSuites"]
    assert arguments["tls-cipher-suites"] == ",".join(ciphers)
    mounted = {volume["hostPath"] for volume in server["extraVolumes"]}
    named = {v for v in arguments.values() if v.startswith("/etc/kubernetes/") and "/pki/" not in v}
    assert named <= mounted and named <= files.keys()
