# SPDX-License-Identifier: Apache-2.0
"""Is what configs/clusters/solo.yaml gives still what it gave? (`make golden` rewrites)

The tree below `solo/` is what lies on the node and beside its payload, in full; that of a variant
has only what differs from its example. Keys and hashes are random and stand as placeholders; of a
certificate there stands what it says.
"""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from cloudinit.part import NodeFile
from cloudinit.render import render_payloads
from cloudinit.rules import load_cluster
from cloudinit.state import State
from cloudinit.userdata import MANIFEST_PATH
from tests.support.clusters import NOW, make_project

HERE = Path(__file__).parent
# Each example that the project comes with; of several nodes of one role the first.
CLUSTERS = (
    "dual-stack", "ha-external", "ha-stacked", "kubeadm", "pool", "single-master", "solo"
)  # fmt: skip
# Name → the example, and what is changed in it.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "allow-metadata": ("solo", {"network": {"allow_metadata": True}}),
    "large": ("ha-stacked", {"planned_nodes": 5000, "network": {"pod_cidr": "10.128.0.0/11"}}),
}
_PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n", re.DOTALL)
_KEY = re.compile(r"-----BEGIN (\w+) PRIVATE KEY-----.*?-----END \1 PRIVATE KEY-----\n", re.DOTALL)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_is_as_it_was(name: str, tmp_path: Path, golden_update: bool) -> None:
    rendered = render_tree(tmp_path, name)

    assert len(rendered) > 60
    compare(rendered, HERE / name, golden_update=golden_update)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_differs_from_its_example_as_it_did(
    name: str, tmp_path: Path, golden_update: bool
) -> None:
    example, changes = VARIANTS[name]
    plain = render_tree(tmp_path / "plain", example)
    changed = render_tree(tmp_path / "changed", example, changes)

    different = {path: text for path, text in changed.items() if plain.get(path) != text}
    assert plain.keys() <= changed.keys()
    assert 0 < len(different) < len(plain)
    compare(different, HERE / name, golden_update=golden_update)


def compare(rendered: dict[str, str], golden: Path, *, golden_update: bool) -> None:
    """Hold a rendered tree against the golden one, or replace that."""
    if golden_update:
        shutil.rmtree(golden, ignore_errors=True)
        for path, text in rendered.items():
            target = golden / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        pytest.fail(f"rewrote {len(rendered)} files below {golden.name}: look at the difference")
    stored = {str(p.relative_to(golden)): p.read_text() for p in golden.rglob("*") if p.is_file()}

    assert sorted(rendered) == sorted(stored)
    for path, text in rendered.items():
        assert text == stored[path], f"{path} differs; `make golden` rewrites"


def test_every_example_has_its_golden_files() -> None:
    examples = (HERE.parents[1] / "configs" / "clusters").glob("*.yaml")

    assert sorted(path.stem for path in examples) == sorted(CLUSTERS)


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_structured_file_parses(name: str, tmp_path: Path) -> None:
    tree = render_tree(tmp_path, name)

    parsed: dict[str, object] = {}
    for path, text in tree.items():
        if read := reader_of(Path(path)):
            parsed[path] = read(text)

    assert [path for path, found in parsed.items() if not found] == []
    structured = ("/meta-data", "/network-config", ".yaml", ".json", "/kube-proxy.conf")
    assert {path for path in tree if path.endswith(structured)} <= parsed.keys()
    assert len(parsed) >= 18


def reader_of(path: Path) -> Callable[[str], object] | None:
    """Choose what a file is read with, by where it lies and what it is called."""
    is_kubeconfig = path.match("root/etc/kubernetes/*.conf") and path.name != "resolv.conf"
    if path.suffix == ".yaml" or is_kubeconfig or path.name in ("meta-data", "network-config"):
        return read_mappings
    return {".json": json.loads, ".toml": tomllib.loads}.get(path.suffix)


def read_mappings(text: str) -> list[dict[str, object]]:
    """Read the documents of a YAML file, each of which is a mapping."""
    found = list(yaml.safe_load_all(text))
    assert all(isinstance(document, dict) for document in found), text
    return found


def render_tree(root: Path, name: str, changes: dict[str, Any] | None = None) -> dict[str, str]:
    project = make_project(root)
    config = project.configs_dir / "clusters" / f"{name}.yaml"
    data = yaml.safe_load(config.read_text())
    for key, value in (changes or {}).items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    config.write_text(yaml.safe_dump(data))
    cluster = load_cluster(name, project)
    state = State.open(root / "state", cluster=cluster.name, config=cluster.pki, now=NOW)
    tree, shown = {}, set()
    for payload in render_payloads(cluster, state=state, project=project):
        if payload.context.owner.role in shown:
            continue
        shown.add(payload.context.owner.role)
        name = payload.context.owner.name
        tree[f"{name}/FILES"] = listing(payload.files)
        for part in payload.seed.keys() - {"user-data"}:
            text = payload.seed[part].decode()
            tree[f"{name}/{part}"] = re.sub(r"-[0-9a-f]{12}$", "-<hash>", text, flags=re.MULTILINE)
        for file in payload.files:
            text = normalise(file)
            for token in state.tokens.values():
                text = text.replace(token.secret.reveal_text(), "<token-secret>")
                text = text.replace(token.token_id, "<token-id>")
            tree[f"{name}/root{file.path}"] = text
    return tree


def listing(files: tuple[NodeFile, ...]) -> str:
    rows = [f"{f.mode:04o} {f.owner:<9} {f.part:<11} {f.path}  <- {f.source}" for f in files]
    return "".join(f"{row}\n" for row in rows)


def normalise(file: NodeFile) -> str:
    text = file.content.decode()
    if "-----BEGIN CERTIFICATE-----" in text:
        return describe(file.content)
    text = _KEY.sub(r"<\1 private key>\n", text)
    text = _PUBLIC_KEY.sub("<public key>\n", text)
    if file.path == "/etc/kubernetes/encryption.yaml":
        text = re.sub(r"secret: \S+", "secret: <secret>", text)
    text = re.sub(r"KUBEKILN_DISK=\S+", "KUBEKILN_DISK=<uuid>", text)
    if file.path == MANIFEST_PATH:
        text = re.sub(r'"sha256":"[0-9a-f]+"', '"sha256":"<hash>"', text)
    return text


def describe(pem: bytes) -> str:
    certificate = x509.load_pem_x509_certificate(pem)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    lines = [
        f"subject {certificate.subject.rfc4514_string()}",
        f"issuer {certificate.issuer.rfc4514_string()}",
        f"signed with {certificate.signature_algorithm_oid._name}",
        f"valid for {(end - start).days} days from {(NOW - start).seconds} s ago",
    ]
    for extension in certificate.extensions:
        critical = " (critical)" if extension.critical else ""
        lines.append(f"{extension.oid._name}{critical}: {say(extension.value)}")
    return "\n".join(lines) + "\n"


def say(value: x509.ExtensionType) -> str:
    if isinstance(value, x509.SubjectAlternativeName):
        names = value.get_values_for_type(x509.DNSName)
        return " ".join([*names, *map(str, value.get_values_for_type(x509.IPAddress))])
    if isinstance(value, x509.ExtendedKeyUsage):
        return " ".join(usage._name for usage in value)
    if isinstance(value, x509.KeyUsage):
        named = {"digital_signature": value.digital_signature, "cert_sign": value.key_cert_sign,
                 "crl_sign": value.crl_sign, "encipher": value.key_encipherment}  # fmt: skip
        return " ".join(name for name, given in named.items() if given)
    if isinstance(value, x509.BasicConstraints):
        return f"ca={value.ca} path_length={value.path_length}"
    return "<hash>"
