# SPDX-License-Identifier: Apache-2.0
"""Is the state private, stable, and never replaced behind anybody's back?"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit import render as rendering
from cloudinit.pki import LeafSpec, validity
from cloudinit.state import StateError
from cloudinit.statefile import Document, decode, encode
from kubekiln.errors import ConfigError, StorageError
from kubekiln.operations.clusters import find_kubeconfig
from tests.support.clusters import NOW, make_cluster, make_project, make_state, render, snapshot


def read(root: Path) -> Document:
    path = root / "state" / "lab" / "state"
    return decode(path.read_bytes(), path=path, cluster="lab")


def rewrite(root: Path, change: Callable[[Document], object]) -> None:
    document = read(root)
    change(document)
    (root / "state" / "lab" / "state").write_bytes(encode(document))


SPEC = LeafSpec("lab-1/use", "kubernetes", "someone", ("client",))


def test_a_second_rendering_is_byte_identical(tmp_path: Path) -> None:
    render(tmp_path)
    first = snapshot(tmp_path)

    render(tmp_path, now=NOW + timedelta(days=30))

    assert snapshot(tmp_path) == first
    assert any(name.endswith("seed.iso") for name in first)


def test_nothing_of_the_state_is_readable_by_others(tmp_path: Path) -> None:
    render(tmp_path)

    private = [*(tmp_path / "state").rglob("*"), *(tmp_path / "build" / "nodes" / "lab").rglob("*")]
    assert {"state", "admin.kubeconfig", "user-data", "seed.iso"} <= {p.name for p in private}
    for path in private:
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_missing_state_with_rendered_nodes_is_refused(tmp_path: Path) -> None:
    render(tmp_path)
    (tmp_path / "state" / "lab").rename(tmp_path / "elsewhere")
    before = snapshot(tmp_path)

    with pytest.raises(ConfigError, match="state of cluster lab is missing") as error:
        render(tmp_path)

    assert "--new-cluster" in str(error.value)
    assert snapshot(tmp_path) == before


def test_a_new_cluster_may_be_asked_for(tmp_path: Path) -> None:
    render(tmp_path)
    (tmp_path / "state" / "lab").rename(tmp_path / "elsewhere")

    made = rendering.render_cluster(
        make_cluster(), project=make_project(tmp_path), now=NOW, new_cluster=True
    )

    assert made.created_state
    old = (tmp_path / "elsewhere" / "state").read_bytes()
    assert (made.state_directory / "state").read_bytes() != old


def test_a_new_cluster_never_replaces_a_state(tmp_path: Path) -> None:
    render(tmp_path)
    before = snapshot(tmp_path)

    with pytest.raises(ConfigError, match="has a state already"):
        rendering.render_cluster(
            make_cluster(), project=make_project(tmp_path), now=NOW, new_cluster=True
        )

    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["kubernetes", "etcd", "front-proxy"])
def test_an_authority_that_is_gone_is_not_made_anew(tmp_path: Path, name: str) -> None:
    render(tmp_path)
    rewrite(tmp_path, lambda document: document.authorities.pop(name))

    with pytest.raises(StateError, match=f"lacks {name}") as error:
        render(tmp_path)

    assert "backup" in str(error.value)


@pytest.mark.parametrize("name", ["service-account", "encryption"])
def test_a_key_that_is_gone_is_not_made_anew(tmp_path: Path, name: str) -> None:
    render(tmp_path)
    rewrite(tmp_path, lambda document: document.keys.pop(name))

    with pytest.raises(StateError, match=f"lacks {name}"):
        render(tmp_path)


def damage(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "empty": b"",
        "foreign": b"nonsense\n" + content,
        "cut short": content[:middle],
        "one byte other": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    }


@pytest.mark.parametrize("kind", ["empty", "foreign", "cut short", "one byte other"])
def test_a_damaged_state_is_refused_without_printing_it(tmp_path: Path, kind: str) -> None:
    render(tmp_path)
    path = tmp_path / "state" / "lab" / "state"
    path.write_bytes(damage(path.read_bytes())[kind])
    before = snapshot(tmp_path)

    with pytest.raises(StateError, match="is damaged|holds no state") as error:
        render(tmp_path)

    assert "PRIVATE" not in str(error.value) and "backup" in str(error.value)
    assert snapshot(tmp_path) == before


def test_a_state_of_a_later_format_is_refused(tmp_path: Path) -> None:
    render(tmp_path)
    path = tmp_path / "state" / "lab" / "state"
    path.write_bytes(path.read_bytes().replace(b"kubekiln-state 2", b"kubekiln-state 99", 1))

    with pytest.raises(StateError, match="format 99 is not 2") as error:
        render(tmp_path)

    assert "use the kubekiln that wrote it" in str(error.value)


def test_the_state_of_another_cluster_is_refused(tmp_path: Path) -> None:
    render(tmp_path)
    (tmp_path / "state" / "lab").rename(tmp_path / "state" / "other")

    with pytest.raises(StateError, match="of cluster lab, not of other"):
        render(tmp_path, name="other")


def test_a_leaf_is_issued_anew_only_if_its_spec_changed(tmp_path: Path) -> None:
    render(tmp_path)
    before = read(tmp_path).leaves

    render(tmp_path, api={"extra_sans": ["api.example.org"]})

    after = read(tmp_path).leaves
    assert before.keys() == after.keys() and len(before) > 8
    assert [name for name in before if before[name] != after[name]] == ["lab-1/apiserver"]


def test_a_node_may_have_any_name_even_that_of_this_host_in_the_state(tmp_path: Path) -> None:
    nodes = [{"name": "host", "role": "single", "address": "10.80.0.11"}]
    render(tmp_path, nodes=nodes)
    first = snapshot(tmp_path)

    render(tmp_path, nodes=nodes)

    assert snapshot(tmp_path) == first


def test_nothing_new_is_nothing_written(tmp_path: Path) -> None:
    render(tmp_path)
    path = tmp_path / "state" / "lab" / "state"
    before = path.stat()

    render(tmp_path)

    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize(("days", "renewed"), [(240, False), (250, True), (400, True)])
def test_a_leaf_is_renewed_in_the_last_third_of_its_life(
    tmp_path: Path, days: int, renewed: bool
) -> None:
    first = make_state(tmp_path)
    pair = first.leaf(SPEC)
    first.commit()

    later = make_state(tmp_path, now=NOW + timedelta(days=days)).leaf(SPEC)

    assert (later != pair) is renewed


@pytest.mark.parametrize(
    ("ahead", "renewed"),
    [(timedelta(minutes=50), False), (timedelta(minutes=70), True), (timedelta(days=365), True)],
    ids=str,
)
def test_a_leaf_that_was_issued_by_a_clock_ahead_is_issued_anew(
    tmp_path: Path, ahead: timedelta, renewed: bool
) -> None:
    first = make_state(tmp_path)
    first.complete()
    first.commit()
    wrong = make_state(tmp_path, now=NOW + ahead)
    pair = wrong.leaf(SPEC)
    wrong.commit()

    right = make_state(tmp_path).leaf(SPEC)

    assert (right != pair) is renewed
    assert validity(right.certificate)[0] <= NOW


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(-3651, "ended on 2026-11-2.*it is 2026-11-23 06:00"), (1, "begins on 2026-11-24 05:00 UTC")],
    ids=["ended", "not begun"],
)
def test_an_authority_of_another_time_is_refused_by_its_name(
    tmp_path: Path, ahead: int, said: str
) -> None:
    render(tmp_path, now=NOW + timedelta(days=ahead))
    before = snapshot(tmp_path)

    with pytest.raises(StateError, match=f"authority kubernetes of cluster lab {said}") as error:
        render(tmp_path)

    assert "correct the clock" in str(error.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("days", "told"), [(3200, 0), (3300, 3)])
def test_rendering_says_that_an_authority_ends_within_a_leafs_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int, told: int
) -> None:
    render(tmp_path)

    render(tmp_path, now=NOW + timedelta(days=days))

    assert capsys.readouterr().err.count("of cluster lab ends on 2036-11-20") == told


def test_rendering_removes_its_own_temporaries_and_nobody_elses_files(tmp_path: Path) -> None:
    directory = render(tmp_path).state_directory
    (directory / ".git" / "objects").mkdir(parents=True)
    for name in (".gitignore", ".state.swp", ".git/HEAD"):
        (directory / name).write_text("theirs")
    for name in (".state.ab3d_f7h", ".admin.kubeconfig.ab3d_f7h"):
        (directory / name).write_text("half of a secret")

    render(tmp_path)

    left = sorted(p.name for p in directory.glob(".*"))
    assert left == [".git", ".gitignore", ".state.swp"]


@pytest.mark.parametrize("foreign", ["state", "state/lab"])
def test_a_state_of_another_user_is_named_and_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: str
) -> None:
    render(tmp_path)
    project, closed = make_project(tmp_path), tmp_path / foreign
    stat, iterdir = Path.stat, Path.iterdir

    # Tests may run as root, to whom nothing is closed.
    def stat_as_other(path: Path, **options: bool) -> os.stat_result:
        if closed in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    def list_as_other(path: Path) -> Iterator[Path]:
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "stat", stat_as_other)
    monkeypatch.setattr(Path, "iterdir", list_as_other)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))

    for ask in (
        lambda: rendering.open_state(make_cluster(), project),
        lambda: find_kubeconfig(project, "lab", usage="…"),
        lambda: find_kubeconfig(project, None, usage="…"),
    ):
        with pytest.raises(StorageError, match=f"cannot read {closed}") as error:
            ask()
        assert "another user" in str(error.value)


def test_a_wrong_config_writes_nothing(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    before = snapshot(tmp_path)

    with pytest.raises(ConfigError):
        rendering.render_cluster(make_cluster(addons=["nosuch"]), project=project, now=NOW)

    after = {k: v for k, v in snapshot(tmp_path).items() if not k.endswith(".lock")}
    assert after == before


def test_the_payload_of_a_node_that_is_gone_goes_too(tmp_path: Path) -> None:
    render(tmp_path, nodes=[{"name": "old", "role": "single", "address": "10.80.0.9"}])

    render(tmp_path)

    left = [p.name for p in (tmp_path / "build" / "nodes" / "lab").iterdir()]
    assert left == ["lab-1"]


def test_control_plane_secrets_are_the_same_in_every_rendering_of_a_state(tmp_path: Path) -> None:
    one = make_state(tmp_path)
    keys = (one.service_account_key(), one.encryption_key(), one.authority("kubernetes"))
    one.commit()

    two = make_state(tmp_path)

    assert (two.service_account_key(), two.encryption_key(), two.authority("kubernetes")) == keys


def test_the_host_kubeconfig_leads_to_the_forwarded_port(tmp_path: Path) -> None:
    made = render(tmp_path, api={"host_port": 16443})

    document = yaml.safe_load(made.admin_kubeconfig.read_text())

    assert document["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:16443"
    assert document["current-context"] == "lab"
    # Of each way to the API its authority; of the user a certificate and a key.
    assert json.dumps(document).count("-data") == 4


@pytest.mark.parametrize(
    ("changes", "server"),
    [
        ({}, "https://10.80.0.11:6443"),
        ({"api": {"port": 8443, "extra_sans": ["api.lab.example"]}}, "https://api.lab.example:8443"),
        (
            {"api": {"vip": "10.80.0.9"}, "nodes": [{"name": "m", "role": "master",
                                                     "address": "10.80.0.12"}]},
            "https://10.80.0.9:6443",
        ),
        (
            {"nodes": [{"name": "m", "role": "master", "address": "10.80.0.12"},
                       {"name": "b", "role": "lb", "address": "10.80.0.13"}]},
            "https://10.80.0.13:6443",
        ),
    ],
)  # fmt: skip
def test_the_host_kubeconfig_also_leads_through_the_nodes_network(
    tmp_path: Path, changes: dict[str, Any], server: str
) -> None:
    document = yaml.safe_load(render(tmp_path, **changes).admin_kubeconfig.read_text())

    assert document["clusters"][1] == {
        "name": "lab-network",
        "cluster": {**document["clusters"][0]["cluster"], "server": server},
    }
    assert document["contexts"][1]["name"] == "lab-network"
