# SPDX-License-Identifier: Apache-2.0
"""Is the state private, stable, and never replaced behind anybody's back?"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cloudinit import render as rendering
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
