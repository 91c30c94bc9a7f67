# SPDX-License-Identifier: Apache-2.0
"""Do a node's certificates hold before openssl: chain, use, names, validity, key?"""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloudinit.part import NodeFile
from tests.support.clusters import MINIMAL, NOW, render_files

pytestmark = pytest.mark.processes("openssl")

KUBERNETES, ETCD, FRONT_PROXY = (
    "/etc/kubernetes/pki/ca.crt", "/etc/etcd/pki/ca.crt", "/etc/kubernetes/pki/front-proxy-ca.crt"
)  # fmt: skip
PKI = "/etc/kubernetes/pki"
LEAVES = {
    f"{PKI}/apiserver": (KUBERNETES, "CN = kube-apiserver", {"sslserver"}),
    f"{PKI}/apiserver-etcd-client": (ETCD, "CN = kube-apiserver-etcd-client", {"sslclient"}),
    f"{PKI}/apiserver-kubelet-client": (
        KUBERNETES, "CN = kube-apiserver-kubelet-client", {"sslclient"}
    ),
    f"{PKI}/front-proxy-client": (FRONT_PROXY, "CN = front-proxy-client", {"sslclient"}),
    f"{PKI}/controller-manager": (
        KUBERNETES, "CN = system:kube-controller-manager", {"sslclient", "sslserver"}
    ),
    f"{PKI}/scheduler": (KUBERNETES, "CN = system:kube-scheduler", {"sslclient", "sslserver"}),
    f"{PKI}/kubelet": (KUBERNETES, "O = system:nodes, CN = system:node:lab-1", {"sslclient"}),
    f"{PKI}/csr-approver": (KUBERNETES, "CN = kubekiln:csr-approver", {"sslclient"}),
    f"{PKI}/admin": (KUBERNETES, "O = kubekiln:cluster-admins, CN = kubernetes-admin",
                     {"sslclient"}),
    f"{PKI}/super-admin": (KUBERNETES, "O = system:masters, CN = kubernetes-super-admin",
                           {"sslclient"}),
    "/etc/etcd/pki/etcd": (ETCD, "CN = lab-1", {"sslclient", "sslserver"}),
}  # fmt: skip


def openssl(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["openssl", *words], input=stdin, capture_output=True, check=False)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def test_every_certificate_of_a_node_is_accounted_for(tmp_path: Path) -> None:
    files = render_files(tmp_path)

    certificates = {path for path in files if path.endswith(".crt")}

    assert certificates == {f"{path}.crt" for path in LEAVES} | {KUBERNETES, ETCD, FRONT_PROXY}


@pytest.mark.parametrize("path", LEAVES, ids=[p.rpartition("/")[2] for p in LEAVES])
def test_a_leaf_holds_before_openssl(tmp_path: Path, path: str) -> None:
    files = render_files(tmp_path)
    authority, subject, purposes = LEAVES[path]
    for name, file in (("ca", files[authority]), ("leaf", files[f"{path}.crt"])):
        (tmp_path / name).write_bytes(file.content)

    verdicts = {
        purpose: openssl(
            "verify", "-x509_strict", "-attime", str(int(NOW.timestamp())),
            "-purpose", purpose, "-CAfile", tmp_path / "ca", tmp_path / "leaf",
        ).returncode
        == 0
        for purpose in ("sslclient", "sslserver")
    }  # fmt: skip

    assert {p for p, holds in verdicts.items() if holds} == purposes
    shown = openssl(
        "x509", "-in", tmp_path / "leaf", "-noout", "-subject", "-nameopt", "oneline"
    ).stdout
    assert shown.strip() == f"subject={subject}"
    assert public_key(files[f"{path}.crt"], "x509", "-pubkey", "-noout") == public_key(
        files[f"{path}.key"], "pkey", "-pubout"
    )


def public_key(file: NodeFile, *words: str) -> str:
    done = openssl(*words, stdin=file.content)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_api_is_known_by_every_name_and_address_that_clients_use(tmp_path: Path) -> None:
    files = render_files(
        tmp_path,
        network={"domain": "k8s.example.org", "service_cidr": "10.97.0.0/16"},
        api={"extra_sans": ["api.example.org", "203.0.113.7"]},
        nodes=[
            {
                **MINIMAL["nodes"][0],
                "nics": [{"address": ["10.90.0.11/24", "fd00:90::11/64"]}, {"dhcp": True}],
            }
        ],
    )

    text = openssl("x509", "-noout", "-text", stdin=files[f"{PKI}/apiserver.crt"].content).stdout

    names = re.search(r"Subject Alternative Name: ?\n\s*(.*)\n", text)
    assert names is not None
    assert set(names[1].split(", ")) == {
        "DNS:lab-1", "DNS:lab-1.k8s.example.org", "DNS:localhost", "DNS:kubernetes",
        "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
        "DNS:kubernetes.default.svc.k8s.example.org", "DNS:api.example.org",
        "IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1", "IP Address:10.80.0.11",
        "IP Address:10.90.0.11", "IP Address:FD00:90:0:0:0:0:0:11", "IP Address:10.97.0.1",
        "IP Address:203.0.113.7",
    }  # fmt: skip


def test_no_leaf_outlives_its_authority_even_if_asked_to(tmp_path: Path) -> None:
    files = render_files(tmp_path, pki={"ca_days": 100, "leaf_days": 400})

    ends = {path: end_of(file) for path, file in files.items() if path.endswith(".crt")}

    assert len(ends) == len(LEAVES) + 3
    assert set(ends.values()) == {NOW - timedelta(hours=1) + timedelta(days=100)}


def end_of(file: NodeFile) -> datetime:
    said = openssl("x509", "-noout", "-enddate", stdin=file.content).stdout.strip()
    return datetime.strptime(said, "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)


def test_only_authorities_sign_and_their_keys_stay_where_they_are_needed(tmp_path: Path) -> None:
    files = render_files(tmp_path)

    keys = {path for path in files if path.endswith("ca.key")}

    # The controller manager signs kubelets' certificates; nobody on a node signs for etcd or for
    # the front proxy.
    assert keys == {f"{PKI}/ca.key"}
