# SPDX-License-Identifier: Apache-2.0
"""Is a cluster that a target can't carry refused before anything is made?"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudinit.rules import load_cluster
from kubekiln.config import Source
from kubekiln.errors import EXIT_USAGE, ConfigError, KubekilnError
from kubekiln.operations import placement
from kubekiln.paths import Project
from pipeline.targets import qemu
from tests.support.clusters import cluster_data, make_cluster, make_project, write_cluster
from tests.support.target import FakeTarget


def test_several_machines_are_refused_where_they_would_not_reach_each_other(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    nodes = [
        {"name": "m", "role": "master", "address": "10.80.0.11"},
        {"name": "w", "role": "worker", "address": "10.80.0.12"},
    ]
    path = write_cluster(project, cluster_data(nodes=nodes))
    two = load_cluster("lab", project)

    with pytest.raises(ConfigError, match="lab has 2 machines") as error:
        placement.check_target(FakeTarget(joins_machines=False), project, two, path)

    (problem,) = error.value.problems
    assert "--target nspawn" in str(problem.hint)
    assert problem.where == Source(path).where(("nodes",))
    placement.check_target(FakeTarget(), project, two, path)
    placement.check_target(FakeTarget(joins_machines=False), project, make_cluster(), path)


def test_a_cluster_that_waits_for_a_clouds_meta_data_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    network = {"addressing": "dhcp"}
    path = write_cluster(project, cluster_data(datasource="openstack", network=network))
    cloudy = load_cluster("lab", project)

    with pytest.raises(ConfigError, match="datasource openstack; target fake attaches a") as error:
        placement.check_target(FakeTarget(), project, cloudy, path)

    assert error.value.exit_code == EXIT_USAGE
    keys = (("network", "addressing"), ("datasource",))
    assert [p.where for p in error.value.problems] == [Source(path).where(key) for key in keys]


def test_a_host_that_lacks_a_targets_tool_is_bad_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "find_tool", lambda _: None)

    with pytest.raises(KubekilnError, match="'qemu-img' not found") as error:
        placement.check_target(
            qemu.QemuTarget(), Project(tmp_path), make_cluster(), tmp_path / "lab.yaml"
        )

    assert error.value.exit_code == EXIT_USAGE
