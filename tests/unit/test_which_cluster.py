# SPDX-License-Identifier: Apache-2.0
"""Which cluster is meant where none is named, or one by its path?"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudinit.rules import load_cluster
from kubekiln.errors import KubekilnError
from kubekiln.operations import kubectl
from kubekiln.operations.clusters import find_kubeconfig, which_cluster
from kubekiln.operations.kubectl import admin_of
from kubekiln.paths import Project
from tests.support.clusters import make_project


def test_the_only_cluster_needs_no_naming(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("a", "b"):
        with pytest.raises(KubekilnError, match="no cluster"):
            find_kubeconfig(project, name, usage="…")
        path = project.state_dir / name / "admin.kubeconfig"
        path.parent.mkdir(parents=True)
        path.touch()
        if name == "a":
            assert find_kubeconfig(project, None, usage="…") == path

    assert find_kubeconfig(project, "b", usage="…").parent.name == "b"
    with pytest.raises(KubekilnError, match="which cluster"):
        find_kubeconfig(project, None, usage="…")


def test_a_cluster_whose_config_lies_elsewhere_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path)
    config = tmp_path / "elsewhere" / "mine.yaml"
    config.parent.mkdir()
    config.write_bytes(project.config_path("clusters", "solo").read_bytes())
    made = load_cluster(str(config), project)
    kubeconfig = project.state_dir / made.name / "admin.kubeconfig"
    kubeconfig.parent.mkdir(parents=True)
    kubeconfig.touch()
    monkeypatch.setattr(kubectl, "pinned_kubectl", lambda *_, **given: Path(given["version"]))

    admin = admin_of(project, str(config), usage="…")

    assert (admin.cluster, admin.kubeconfig) == (made.name, kubeconfig)
    assert admin.kubectl == Path(made.kubernetes)
    with pytest.raises(KubekilnError, match="no such file"):
        admin_of(project, str(config.with_name("other.yaml")), usage="…")


def test_of_several_clusters_the_one_with_machines_is_meant(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("a", "b"):
        path = project.state_dir / name / "admin.kubeconfig"
        path.parent.mkdir(parents=True)
        path.touch()
    (project.machines_dir / "b" / "b-1").mkdir(parents=True)
    (project.machines_dir / "b" / "b-1" / "machine.json").touch()

    assert find_kubeconfig(project, None, usage="…").parent.name == "b"
    assert which_cluster(project, None, usage="…") == "b"

    (project.machines_dir / "a" / "a-1").mkdir(parents=True)
    (project.machines_dir / "a" / "a-1" / "machine.json").touch()
    with pytest.raises(KubekilnError, match="which cluster") as error:
        which_cluster(project, None, usage="kubekiln down CLUSTER")
    assert "kubekiln down CLUSTER, of: a, b" in str(error.value)
