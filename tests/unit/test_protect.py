# SPDX-License-Identifier: Apache-2.0
"""Does a platform get nothing that it must not read, and a machine everything that it needs?"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pycdlib
import pyrage
import pytest
import yaml

from cloudinit import agefile
from cloudinit.protect import NOTE_PATH, SEALED_PATH
from cloudinit.rendered import RenderedCluster
from cloudinit.userdata import MANIFEST_PATH
from kubekiln.errors import ConfigError
from kubekiln.files import sha256_bytes
from kubekiln.operations.prepare import key_dir_of
from kubekiln.paths import Project
from kubekiln.secret import Secret
from pipeline.targets import nspawn, qemu
from tests.support.clusters import make_cluster, render, render_files, snapshot
from tests.support.machines import make_machine
from tests.support.protection import AGE, POOL, URL, keys_of, rest_of, unsealed, written

WAYS = pytest.mark.parametrize("how", [AGE, URL], ids=["age", "url"])
SECRET = re.compile(rb"PRIVATE KEY|secret:|AGE-SECRET")


@WAYS
def test_the_platform_gets_a_name_a_network_and_no_secret(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    node = render(tmp_path, **how).nodes[0]

    document = yaml.safe_load(node.user_data.read_bytes())

    assert document["hostname"] == "lab-1"
    paths = list(written(node))
    assert paths[0] == "/etc/systemd/network/05-kubekiln.network"
    assert paths[-1] == NOTE_PATH
    assert all(e["permissions"] == "0600" for p, e in written(node).items() if "network" not in p)
    for path in node.directory.iterdir():
        assert not SECRET.search(path.read_bytes()), path.name


@WAYS
def test_the_machine_gets_every_file_that_it_would_have_had(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    node = render(tmp_path / "a", **how).nodes[0]
    note = json.loads(written(node)[NOTE_PATH]["content"])

    rest = rest_of(tmp_path / "a", node)

    files = json.loads(gzip.decompress(rest))["files"]
    usual = render_files(tmp_path / "a")
    assert [file["path"] for file in files] == list(usual)
    assert files[-1]["path"] == MANIFEST_PATH
    for file in files:
        wanted = usual[file["path"]]
        assert file["content"].encode() == wanted.content
        assert (int(file["mode"], 8), file["owner"]) == (wanted.mode, wanted.owner)
    assert note["sha256"] == sha256_bytes(rest)


@WAYS
def test_rendering_again_gives_the_same_bytes_also_without_what_was_there(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    render(tmp_path, **how)
    first = snapshot(tmp_path / "build")
    for path in sorted((tmp_path / "build").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    render(tmp_path, **how)

    assert snapshot(tmp_path / "build") == first
    assert any("/keys/" in f"/{name}" for name in first)


@WAYS
def test_other_content_has_another_way_to_it_and_other_bytes(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    one = written(render(tmp_path, **how).nodes[0])
    other = written(render(tmp_path, **how, etcd={"quota_mib": 2048}).nodes[0])

    notes = [json.loads(files[NOTE_PATH]["content"]) for files in (one, other)]
    assert notes[0]["sha256"] != notes[1]["sha256"]
    if "url" in notes[0]:
        assert notes[0]["url"] != notes[1]["url"]
    else:
        assert one[SEALED_PATH] != other[SEALED_PATH]


def test_the_key_comes_in_every_form_that_a_machine_can_take_it(tmp_path: Path) -> None:
    render(tmp_path, **AGE)
    directory = keys_of(tmp_path)

    identity = (directory / "kubekiln.age-key").read_text()
    smbios = (directory / "smbios").read_text()
    iso = pycdlib.PyCdlib()
    iso.open(str(directory / "key.iso"))
    label = iso.pvd.volume_identifier.decode().strip()
    names = [str(child.rock_ridge.name().decode()) for child in iso.list_children(iso_path="/")
             if child.rock_ridge and child.rock_ridge.name()]  # fmt: skip
    iso.close()

    assert re.fullmatch(r"AGE-SECRET-KEY-1[A-Z0-9]{58}\n", identity)
    assert smbios == f"io.systemd.credential:kubekiln.age-key={identity.strip()}"
    assert (label, names) == ("KUBEKILN", [".", "..", "kubekiln.age-key"])
    assert directory.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in directory.iterdir())


def test_each_machine_has_a_key_of_its_own(tmp_path: Path) -> None:
    nodes = [
        {"name": "m", "role": "master", "address": "10.80.0.11"},
        {"name": "w", "role": "worker", "address": "10.80.0.12"},
    ]
    made = render(tmp_path, **AGE, nodes=nodes)

    sealed = written(made.nodes[1])[SEALED_PATH]["content"]
    with pytest.raises(pyrage.DecryptError):
        unsealed(sealed, (keys_of(tmp_path, "m") / "kubekiln.age-key").read_text())
    assert unsealed(sealed, (keys_of(tmp_path, "w") / "kubekiln.age-key").read_text())


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000])
def test_ages_own_library_opens_what_is_sealed(size: int) -> None:
    scalar, key = bytes(range(32)), Secret(b"k" * 32)
    content = bytes(i * i % 251 for i in range(size))

    sealed = agefile.encrypt(content, scalar=scalar, key=key)

    assert unsealed(sealed.decode(), agefile.identity_text(scalar).reveal_text()) == content
    assert agefile.encrypt(content, scalar=scalar, key=key) == sealed
    assert agefile.encrypt(content, scalar=scalar, key=Secret(b"l" * 32)) != sealed


def test_contexts_of_derived_keys_are_never_mistaken() -> None:
    key = Secret(b"k" * 32)

    assert agefile.derive(key, b"ab", b"c") != agefile.derive(key, b"a", b"bc")


def test_a_cluster_that_runs_can_be_protected_later_and_its_nodes_bytes_stay(
    tmp_path: Path,
) -> None:
    plain = render(tmp_path).nodes[0]
    before = {path: entry["content"] for path, entry in written(plain).items()}

    node = render(tmp_path, **URL).nodes[0]

    files = json.loads(gzip.decompress(rest_of(tmp_path, node)))["files"]
    assert {file["path"]: file["content"] for file in files} == before
    render(tmp_path)
    assert not (tmp_path / "build/keys/lab/lab-1").exists(), "its keys are of no use any more"
    assert {p: e["content"] for p, e in written(plain).items()} == before


def test_an_unprotected_cluster_has_no_keys_and_no_journal(tmp_path: Path) -> None:
    render(tmp_path)

    assert not (tmp_path / "build/keys").exists()
    assert not (tmp_path / "state/lab/serve.journal").exists()
    assert "delivery" not in (tmp_path / "state/lab/state").read_text()


@WAYS
def test_what_is_attached_is_small(tmp_path: Path, how: dict[str, Any]) -> None:
    node = render(tmp_path, **how).nodes[0]

    assert node.size_gzip < (16_384 if how is AGE else 3_000)
    assert all(fit.is_within for fit in node.fits)


def test_a_node_too_large_for_its_platform_fits_by_url(tmp_path: Path) -> None:
    large: dict[str, Any] = {"pki": {"algorithm": "rsa2048"}, "datasource": "ec2",
             "network": {"addressing": "dhcp"}}  # fmt: skip
    with pytest.raises(ConfigError, match="over the 16,384 B"):
        render(tmp_path / "plain", **large)

    assert render(tmp_path / "url", **large, **URL).nodes[0].size_gzip < 16_384


def test_a_url_is_offered_once_by_a_journal_that_does_not_hold_it(tmp_path: Path) -> None:
    node = render(tmp_path, **URL).nodes[0]
    render(tmp_path, **URL)

    url = json.loads(written(node)[NOTE_PATH]["content"])["url"]
    journal = tmp_path / "state/lab/serve.journal"

    assert re.fullmatch(r"https://10\.80\.0\.5:8443/v1/[\w-]{43}", url)
    assert journal.read_text().count('"offered"') == 1
    assert url.rpartition("/")[2] not in journal.read_text()
    assert journal.stat().st_mode & 0o777 == 0o600


def test_machines_of_a_pool_share_a_key(tmp_path: Path) -> None:
    pool: RenderedCluster = render(tmp_path, **AGE, **POOL)

    content = yaml.safe_load(pool.pools[0].user_data.read_bytes())

    assert "hostname" not in content
    sealed = next(e for e in content["write_files"] if e["path"] == SEALED_PATH)["content"]
    identity = (keys_of(tmp_path, "batch") / "kubekiln.age-key").read_text()
    assert json.loads(gzip.decompress(unsealed(sealed, identity)))["files"]


def test_local_targets_give_the_key_another_way_than_the_seed(tmp_path: Path) -> None:
    plain, sealed = make_machine(tmp_path), make_machine(tmp_path, key_dir=tmp_path / "key,s")
    accelerator = qemu.Accelerator("kvm", 2, ("-smbios", "type=11,value=last"))

    words = [str(word) for word in qemu.qemu_command(sealed, accelerator)]

    strings = [words[i + 1] for i, word in enumerate(words) if word == "-smbios"]
    assert strings == [f"type=11,path={tmp_path}/key,,s/smbios", "type=11,value=last"]
    wanted = f"--load-credential=kubekiln.age-key:{tmp_path}/key,s/kubekiln.age-key"
    assert wanted in nspawn.nspawn_command(sealed)
    assert not any("credential" in str(word) for word in nspawn.nspawn_command(plain))


def test_only_a_sealed_cluster_has_keys_for_its_targets(tmp_path: Path) -> None:
    project = Project(tmp_path)

    assert key_dir_of(project, make_cluster(**AGE), "lab-1") == tmp_path / "build/keys/lab/lab-1"
    assert key_dir_of(project, make_cluster(**URL), "lab-1") is None
    assert key_dir_of(project, make_cluster(), "lab-1") is None
