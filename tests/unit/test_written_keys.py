# SPDX-License-Identifier: Apache-2.0
"""Does what is written for a machine hold its own private key and no other, however packed?"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from cloudinit import check, keyplaces
from cloudinit.part import NodeFile
from cloudinit.render import Payload, render_cluster, render_payloads
from cloudinit.seed import build_iso
from kubekiln.errors import ConfigError
from tests.support.clusters import NOW, make_cluster, make_project, make_state
from tests.support.keyscan import keys_in

NODES: dict[str, Any] = {
    "nodes": [
        {"name": "m-1", "role": "master", "address": "10.80.0.11"},
        {"name": "w-1", "role": "worker", "address": "10.80.0.21"},
        {"name": "w-2", "role": "worker", "address": "10.80.0.22"},
        {"name": "b-1", "role": "lb", "address": "10.80.0.31"},
    ],
    "pools": [{"name": "batch", "addresses": "10.80.0.128/25", "max_nodes": 9}],
}
AUTHORITY = "/etc/kubernetes/pki/ca.key"


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Payload]:
    root = tmp_path_factory.mktemp("keys")
    rendered = render_payloads(
        make_cluster(**NODES), state=make_state(root), project=make_project(root)
    )
    return {payload.context.owner.name: payload for payload in rendered}


@pytest.fixture(scope="module")
def authority(payloads: dict[str, Payload]) -> bytes:
    return next(f.content for f in payloads["m-1"].files if f.path == AUTHORITY)


@pytest.mark.parametrize("datasource", ["nocloud", "vsphere"])
@pytest.mark.parametrize("bootstrap", ["systemd", "kubeadm"])
def test_a_worker_is_written_its_own_key_and_no_other(
    tmp_path: Path, datasource: str, bootstrap: str
) -> None:
    changes = {"datasource": datasource, "bootstrap": bootstrap, **NODES}
    if bootstrap == "kubeadm":
        del changes["pools"]
    rendered = render_cluster(
        make_cluster(**changes), project=make_project(tmp_path), now=NOW, workers=1
    )
    found = {
        payload.name: {
            path.name: keys_in(path.read_bytes()) for path in payload.directory.iterdir()
        }
        for payload in (*rendered.nodes, *rendered.pools)
    }

    own = {name: set().union(*files.values()) for name, files in found.items()}
    assert len(own["m-1"]) >= 7
    assert len(own["w-1"]) == len(own["w-2"]) == 1
    assert not own["w-1"] & own["w-2"] and not own["w-1"] & own["m-1"]
    assert not own["b-1"] and not own.get("batch")
    packed = "seed.iso" if datasource == "nocloud" else "guestinfo.userdata"
    assert found["w-1"][packed] == found["w-1"]["user-data"] == own["w-1"]
    assert not found["w-1"]["meta-data"]


def pkcs8(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, password=None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def kubeconfig(pem: bytes) -> bytes:
    data = base64.b64encode(pem).decode()
    return f"users:\n- name: x\n  user:\n    client-key-data: {data}\n    token: y\n".encode()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda pem: pem,
    "PKCS#8": pkcs8,
    "a kubeconfig": kubeconfig,
    "a kubeconfig of PKCS#8": lambda pem: kubeconfig(pkcs8(pem)),
    "a kubeconfig without its key's name": lambda pem: kubeconfig(pem).replace(b"-key-", b"-"),
}
# What only the scan has to find: no part writes such a thing.
HIDDEN: dict[str, Callable[[bytes], bytes]] = {
    "a text in quotes": lambda pem: json.dumps({"x": pem.decode()}).encode(),
    "gzip": gzip.compress,
    "gzip in base64": lambda pem: base64.b64encode(gzip.compress(pem)),
    "wrapped base64": lambda pem: base64.encodebytes(b"x" + pem),
    "an ISO of gzip": lambda pem: build_iso({"user-data": gzip.compress(kubeconfig(pem))}),
}


@pytest.mark.parametrize("pack", [*PACKED.values(), *HIDDEN.values()], ids=[*PACKED, *HIDDEN])
def test_the_scan_finds_a_key_in_any_packing(
    authority: bytes, pack: Callable[[bytes], bytes]
) -> None:
    (known,) = keys_in(authority)

    assert keys_in(pack(authority)) == {known}
    assert keys_in(b"#cloud-config\nx: " + pack(authority) + b"\n") == {known}


def test_the_scan_finds_a_key_of_rsa() -> None:
    key = generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    assert b"RSA PRIVATE KEY" in pem
    assert len(keys_in(kubeconfig(pem))) == 1
    assert keyplaces.holds_key(pem) and keyplaces.holds_key(kubeconfig(pem))


@pytest.mark.parametrize("name", ["w-1", "b-1", "batch", "m-1"])
@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_a_key_where_none_belongs_is_found_whatever_its_mode(
    payloads: dict[str, Payload], authority: bytes, pack: Callable[[bytes], bytes], name: str
) -> None:
    payload = payloads[name]
    planted = NodeFile("/etc/kubernetes/x.conf", pack(authority), "test", mode=0o600)

    assert list(keyplaces.key_problems(payload.context, payload.files)) == []
    (said,) = keyplaces.key_problems(payload.context, (*payload.files, planted))
    assert said.startswith(f"/etc/kubernetes/x.conf of {name} holds a private key")


def test_an_authoritys_key_stops_the_rendering_of_a_worker(
    payloads: dict[str, Payload], authority: bytes
) -> None:
    worker = payloads["w-1"]
    planted = NodeFile(AUTHORITY, authority, "test", mode=0o600)
    userdata = worker.seed["user-data"]

    with pytest.raises(ConfigError, match="ca.key of w-1 holds a private key, which no worker"):
        check.check_userdata(worker.context, (*worker.files, planted), userdata, userdata)


@pytest.mark.parametrize(("name", "count"), [("m-1", 0), ("w-1", 1)])
def test_a_users_add_on_may_have_a_key_and_only_masters_have_add_ons(
    payloads: dict[str, Payload], authority: bytes, name: str, count: int
) -> None:
    secret = NodeFile("/etc/kubernetes/addons/mine.yaml", authority, "test", mode=0o600)

    assert len(list(keyplaces.key_problems(payloads[name].context, (secret,)))) == count
