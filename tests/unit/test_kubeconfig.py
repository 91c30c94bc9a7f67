# SPDX-License-Identifier: Apache-2.0
"""Is a cluster merged into a person's kubeconfig, and taken out again, without harm to the rest?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kubekiln.errors import ConfigError, KubekilnError, StorageError
from kubekiln.operations import kubeconfigfile
from kubekiln.operations.down import forget_contexts
from kubekiln.operations.kubeconfig import merge, merged_clusters, unmerge
from kubekiln.paths import user_kubeconfig
from tests.support.kubeconfigs import rendered

# Numbers, dates and quotes as some people's tools write them: none may change.
THEIRS = """\
# my clusters
apiVersion: v1
kind: Config
preferences: {colors: true}
clusters:
- name: work
  cluster: {server: 'https://work:6443', certificate-authority: /x/ca.crt}
contexts:
- {name: work, context: {cluster: work, user: me, namespace: '0123'}}
current-context: work
users:
- name: me
  user:
    token: "1e3"
    auth-provider:
      name: oidc
      config:
        expiry: 2026-11-23T10:00:00Z
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home" / "config"
    monkeypatch.setenv("KUBECONFIG", f"{path}:{tmp_path / 'other'}")
    path.parent.mkdir()
    path.write_text(THEIRS)
    path.chmod(0o644)
    return path


def names(path: Path, kind: str) -> list[str]:
    return [entry["name"] for entry in yaml.safe_load(path.read_text())[kind]]


def test_the_first_file_of_the_variable_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert user_kubeconfig() == tmp_path / ".kube" / "config"

    monkeypatch.setenv("KUBECONFIG", ":/a/b:/c")
    assert user_kubeconfig() == Path("/a/b")


def test_the_others_entries_stay_as_they_were_written(theirs: Path, tmp_path: Path) -> None:
    merged = merge(rendered(tmp_path), None)

    text = theirs.read_text()
    assert (merged.context, merged.path, merged.is_current) == ("try", theirs, False)
    for kept in (
        "namespace: '0123'",
        'token: "1e3"',
        "expiry: 2026-11-23T10:00:00Z",
        "'https://work",
    ):
        assert kept in text
    before, after = yaml.safe_load(THEIRS), yaml.safe_load(text)
    assert after["current-context"] == "work"
    for kind in ("clusters", "users", "contexts"):
        assert after[kind][0] == before[kind][0]
        assert len(after[kind]) == 2


def test_the_file_is_private_and_a_backup_is_kept(theirs: Path, tmp_path: Path) -> None:
    merge(rendered(tmp_path), "try")

    backup = theirs.with_name("config-before-kubekiln")
    assert theirs.stat().st_mode & 0o777 == 0o600
    assert backup.read_text() == THEIRS and backup.stat().st_mode & 0o777 == 0o600
    assert not theirs.with_name("config.lock").exists()

    unmerge(rendered(tmp_path), "try")
    assert backup.read_text() == THEIRS, "what was there before kubekiln"


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(theirs: Path, tmp_path: Path) -> None:
    theirs.write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="cannot read it") as caught:
        merge(rendered(tmp_path), "try")

    assert str(theirs) in str(caught.value)


def test_merging_again_changes_nothing_and_a_new_port_is_taken_over(
    theirs: Path, tmp_path: Path
) -> None:
    assert merge(rendered(tmp_path), "try").has_changed
    once = theirs.read_text()

    assert not merge(rendered(tmp_path), "try").has_changed
    assert theirs.read_text() == once

    assert merge(rendered(tmp_path, server="https://127.0.0.1:6509"), "try").has_changed
    assert names(theirs, "clusters") == ["work", "try"]
    assert "6509" in theirs.read_text() and "6500" not in theirs.read_text()


def test_a_file_that_is_not_there_is_made_with_the_context_as_the_current_one(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "deep" / "config"
    monkeypatch.setenv("KUBECONFIG", str(path))

    merged = merge(rendered(tmp_path), None)

    assert merged.is_current
    assert yaml.safe_load(path.read_text())["current-context"] == "try"
    assert path.stat().st_mode & 0o777 == 0o600


def test_use_makes_it_the_current_context(theirs: Path, tmp_path: Path) -> None:
    assert merge(rendered(tmp_path), None, use=True).is_current
    assert yaml.safe_load(theirs.read_text())["current-context"] == "try"


def test_another_context_of_that_name_is_not_overwritten(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'work' already") as error:
        merge(rendered(tmp_path, "work"), "work")

    assert "kubectl config delete-cluster work" in str(error.value)
    assert theirs.read_text() == THEIRS
    assert not theirs.with_name("config.lock").exists()


def test_unmerging_leaves_what_was_there_before(theirs: Path, tmp_path: Path) -> None:
    project = rendered(tmp_path)
    merge(project, "try", use=True)

    assert unmerge(project, "try") == [theirs]

    after = yaml.safe_load(theirs.read_text())
    assert after == {**yaml.safe_load(THEIRS), "current-context": ""}
    assert unmerge(project, "try") == []


def test_down_takes_the_context_out_of_the_file_it_was_merged_into(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = rendered(tmp_path)
    rendered(tmp_path, "other")
    merge(project, "try")
    merge(project, "other")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "elsewhere"))

    forget_contexts(project, "try")

    assert names(theirs, "contexts") == ["work", "other"]
    assert merged_clusters(project) == ["other"]
    forget_contexts(project, None)
    assert yaml.safe_load(theirs.read_text()) == yaml.safe_load(THEIRS)


def test_a_kubeconfig_that_cannot_be_read_keeps_no_other_from_being_cleaned(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = rendered(tmp_path)
    rendered(tmp_path, "other")
    merge(project, "other")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "damaged"))
    for name in ("other", "try"):
        merge(project, name)
    (tmp_path / "damaged").write_text("a: [")

    with pytest.raises(KubekilnError, match="not valid YAML") as raised:
        forget_contexts(project, None)

    assert len(raised.value.problems) == 2
    assert names(theirs, "contexts") == ["work"]
    assert merged_clusters(project) == ["other", "try"], "they are still to be cleaned"


def test_merging_again_keeps_the_namespace_that_the_user_chose(
    theirs: Path, tmp_path: Path
) -> None:
    project = rendered(tmp_path)
    merge(project, "try")
    data = yaml.safe_load(theirs.read_text())
    data["contexts"][-1]["context"]["namespace"] = "team-a"
    theirs.write_text(yaml.safe_dump(data))

    merge(project, "try")

    assert yaml.safe_load(theirs.read_text())["contexts"][-1] == data["contexts"][-1]


def test_a_link_stays_a_link(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to(theirs)
    monkeypatch.setenv("KUBECONFIG", str(link))

    merge(rendered(tmp_path), "try")

    assert link.is_symlink() and names(theirs, "contexts") == ["work", "try"]


def test_a_clusters_own_file_is_not_taken_for_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = rendered(tmp_path)
    own = project.state_dir / "try" / "admin.kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(own))
    before = own.read_text()

    with pytest.raises(ConfigError, match="cluster's own") as error:
        merge(project, "try")

    assert "unset KUBECONFIG" in str(error.value)
    assert own.read_text() == before


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n"])
def test_a_file_that_is_no_kubeconfig_is_left_as_it_is(
    theirs: Path, tmp_path: Path, text: str
) -> None:
    theirs.write_text(text)

    with pytest.raises(ConfigError, match="not ") as error:
        merge(rendered(tmp_path), "try")

    assert str(theirs) in str(error.value)
    assert theirs.read_text() == text


def test_while_kubectl_changes_the_file_nobody_else_does(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubeconfigfile, "_LOCK_S", 0.1)
    lock = theirs.with_name("config.lock")
    lock.touch()

    with pytest.raises(StorageError, match="another program is changing"):
        merge(rendered(tmp_path), "try")

    assert theirs.read_text() == THEIRS and lock.exists()


def test_lists_that_are_null_are_filled(theirs: Path, tmp_path: Path) -> None:
    theirs.write_text("apiVersion: v1\nkind: Config\nclusters: null\ncontexts:\nusers: []\n")

    merge(rendered(tmp_path), "try")

    for kind, name in (("clusters", "try"), ("contexts", "try"), ("users", "try-admin")):
        assert names(theirs, kind) == [name]
