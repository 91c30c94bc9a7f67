# SPDX-License-Identifier: Apache-2.0
"""Is a payload what cloud-init and the node's activation expect, and as small as it must be?"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from pydantic import ValidationError

from cloudinit import check
from cloudinit.part import NodeFile
from cloudinit.userdata import MANIFEST_PATH, _scalar
from kubekiln.channel import compress
from tests.support.clusters import make_cluster, render, render_files

SINGLE_GZIP_LIMIT = 16_384


def test_single_fits_the_smallest_platforms_compressed(tmp_path: Path) -> None:
    node = render(tmp_path).nodes[0]

    assert node.size_gzip <= SINGLE_GZIP_LIMIT
    assert all(fit.is_within for fit in node.fits)


def test_user_data_is_cloud_config_without_commands(tmp_path: Path) -> None:
    text = render(tmp_path).nodes[0].user_data.read_text()

    document = yaml.safe_load(text)

    assert text.startswith("#cloud-config\n")
    assert document.keys() == {
        "fqdn", "hostname", "manage_etc_hosts", "prefer_fqdn_over_hostname", "write_files"
    }  # fmt: skip
    assert document["hostname"] == "lab-1"


def test_what_cloud_init_reads_is_what_was_rendered(tmp_path: Path) -> None:
    files = render_files(tmp_path)
    made = render(tmp_path).nodes[0]

    written = yaml.safe_load(made.user_data.read_text())["write_files"]

    assert [entry["path"] for entry in written] == list(files)
    for entry in written:
        file = files[entry["path"]]
        assert int(entry.get("permissions", "0644"), 8) == file.mode
        assert entry.get("owner", "root:root") == file.owner
        assert entry["content"].endswith("\n")


@pytest.mark.parametrize(
    "text",
    ["a\n", "a\nb\n", "", "a", " a\n", "\na\n", "a\n\n", "\tx\n", "a: b\n# c\n", "é\n", "\x01\n"],
)
def test_any_content_survives_the_way_into_yaml(text: str) -> None:
    document = f"files:\n- path: /etc/x\n  content: {_scalar(text)}\n"

    assert yaml.safe_load(document)["files"][0]["content"] == text


def test_the_manifest_is_last_and_lists_every_other_file_as_it_is(tmp_path: Path) -> None:
    files = render_files(tmp_path)

    manifest = json.loads(files[MANIFEST_PATH].content)

    assert list(files)[-1] == MANIFEST_PATH
    assert manifest.keys() == {
        "schema", "cluster", "node", "role", "kubernetes", "units", "files", "phone_home", "report",
        "valid_from", "valid_until",
    }  # fmt: skip
    listed = {f["path"]: f for f in manifest["files"]}
    assert list(listed) == list(files)[:-1]
    for path, entry in listed.items():
        digest = hashlib.sha256(files[path].content).hexdigest()
        assert digest.startswith(entry["sha256"]) and len(entry["sha256"]) >= 32
        assert int(entry["mode"], 8) == files[path].mode


def test_a_machine_is_told_where_to_say_how_far_its_boot_is(tmp_path: Path) -> None:
    url = "http://10.80.0.1:8099/boot"

    manifest = json.loads(render_files(tmp_path, phone_home=url)[MANIFEST_PATH].content)

    assert manifest["phone_home"] == url
    with pytest.raises(ValidationError, match="phone_home"):
        make_cluster(phone_home="10.80.0.1:8099")


def test_the_manifest_says_when_all_certificates_are_valid(tmp_path: Path) -> None:
    files = render_files(tmp_path)

    manifest = json.loads(files[MANIFEST_PATH].content)

    leaves = [
        x509.load_pem_x509_certificate(f.content)
        for f in files.values()
        if f.path.endswith(".crt") and not f.path.endswith("ca.crt")
    ]
    assert len(leaves) > 8
    assert manifest["valid_from"] == max(c.not_valid_before_utc for c in leaves).timestamp()
    assert manifest["valid_until"] == min(c.not_valid_after_utc for c in leaves).timestamp()
    assert manifest["valid_until"] - manifest["valid_from"] == 365 * 86400


def test_every_secret_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    files = render_files(tmp_path)

    keys = [f for f in files.values() if b"PRIVATE KEY" in f.content]

    assert len(keys) >= 10
    assert all(f.mode == 0o600 for f in keys)
    assert files["/etc/kubernetes/encryption.yaml"].mode == 0o600
    assert all(f.owner == "etcd:etcd" for f in keys if f.path.startswith("/etc/etcd/"))


def test_every_file_names_its_origin_and_every_key_is_in_the_model(tmp_path: Path) -> None:
    known = set(_keys(make_cluster().model_dump()))

    for file in render_files(tmp_path).values():
        assert file.part and file.source
        for key in file.keys:
            assert key in known, f"{file.path} names {key}"


def _keys(value: object, prefix: str = "") -> list[str]:
    if isinstance(value, list | tuple):
        return [key for item in value for key in _keys(item, prefix)]
    if not isinstance(value, dict):
        return []
    out = []
    for name, inner in value.items():
        key = f"{prefix}.{name}".lstrip(".")
        out += [key, *_keys(inner, key)]
    return out


def test_meta_data_changes_with_user_data_only(tmp_path: Path) -> None:
    one = render(tmp_path).nodes[0].meta_data.read_text()
    same = render(tmp_path).nodes[0].meta_data.read_text()
    other = render(tmp_path, etcd={"quota_mib": 2048}).nodes[0].meta_data.read_text()

    assert one == same != other
    assert yaml.safe_load(one)["local-hostname"] == "lab-1"


def test_network_config_is_static_by_mac_address(tmp_path: Path) -> None:
    node = render(tmp_path, network={"nameservers": ["10.80.0.3"], "mtu": 1400}).nodes[0]

    document = yaml.safe_load(node.network_config.read_text())

    (interface,) = document["ethernets"].values()
    assert document["version"] == 2
    assert interface["match"] == {"macaddress": node.mac}
    assert interface["addresses"] == ["10.80.0.11/24"]
    assert interface["routes"] == [{"to": "0.0.0.0/0", "via": "10.80.0.1"}]
    assert interface["nameservers"] == {"addresses": ["10.80.0.3"]}
    assert interface["mtu"] == 1400


def test_without_gateway_and_nameservers_nothing_is_said_of_them(tmp_path: Path) -> None:
    node = render(tmp_path, network={"gateway": None}).nodes[0]

    (interface,) = yaml.safe_load(node.network_config.read_text())["ethernets"].values()

    assert not {"routes", "nameservers", "mtu"} & interface.keys()


@pytest.mark.parametrize(
    ("userdata", "said"),
    [
        (b"#!/bin/sh\n", "does not begin with"),
        (b"#cloud-config\nruncmd: [ls]\nwrite_files: [{path: /etc/a}]\n", "has the key runcmd"),
        (b"#cloud-config\nwrite_files: [{path: /etc/a}, {path: /etc/a}]\n", "writes /etc/a twice"),
        (b"#cloud-config\nwrite_files: [{path: /usr/bin/x}]\n", "neither configuration"),
    ],
)
def test_the_second_look_finds_what_must_not_be(userdata: bytes, said: str) -> None:
    assert any(said in problem for problem in check.structure_problems(userdata))


def test_the_second_look_finds_a_planted_key() -> None:
    planted = NodeFile("/etc/x", b"-----BEGIN EC PRIVATE KEY-----\n", "test", mode=0o644)

    assert list(check.secrecy_problems((planted,))) == ["/etc/x holds a secret and has mode 0644"]


def test_compression_is_the_same_at_any_time() -> None:
    assert compress(b"abc") == compress(b"abc")
    assert gzip.decompress(compress(b"abc")) == b"abc"
