# SPDX-License-Identifier: Apache-2.0
"""Is a pool's token kept as long as it is good, made anew when it isn't, and shown to nobody?"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloudinit.render import render_cluster
from cloudinit.rules import load_cluster
from cloudinit.statefile import decode
from kubekiln.cli.cluster import app
from kubekiln.errors import ConfigError
from kubekiln.operations import tokens as operation
from tests.support.clusters import (
    MASTER,
    NOW,
    WEB,
    cluster_data,
    make_cluster,
    make_project,
    pools,
    snapshot,
    write_cluster,
)


def rendered_token(root: Path, *, days: float = 0, **changes: Any) -> str:
    project, cluster = make_project(root), make_cluster(**pools(changes))
    render_cluster(cluster, project=project, now=NOW + timedelta(days=days))
    path = project.state_dir / "lab" / "state"
    return decode(path.read_bytes(), path=path, cluster="lab").tokens["batch"].token_id


def test_a_token_is_kept_until_the_last_third_of_its_life(tmp_path: Path) -> None:
    first = rendered_token(tmp_path)
    before = snapshot(tmp_path)

    assert rendered_token(tmp_path, days=19.9) == first
    assert snapshot(tmp_path) == before
    assert rendered_token(tmp_path, days=20.1) != first


def test_a_token_that_was_made_by_a_clock_ahead_is_made_anew(tmp_path: Path) -> None:
    rendered_token(tmp_path)
    ahead = rendered_token(tmp_path, days=25)

    assert rendered_token(tmp_path, days=24.97) == ahead
    assert rendered_token(tmp_path) != ahead


def test_a_token_of_another_life_is_another_one(tmp_path: Path) -> None:
    assert rendered_token(tmp_path) != rendered_token(tmp_path, token_ttl_hours=24)


def test_a_token_that_leaked_is_in_nothing_that_is_rendered_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path)
    path = write_cluster(project, cluster_data(**pools({}, WEB)))
    monkeypatch.chdir(tmp_path)
    cluster = load_cluster(str(path), project)
    render_cluster(cluster, project=project)
    batch, gpu = operation.rendered_tokens(project, cluster)

    with pytest.raises(ConfigError, match="has no pool nosuch") as error:
        operation.renew_tokens(project, cluster, ["nosuch"])
    said = CliRunner().invoke(app, ["tokens", "lab", "--renew", "batch"], catch_exceptions=False)

    left = b"".join(snapshot(tmp_path / "build" / "nodes").values())
    new, same = operation.rendered_tokens(project, cluster)
    assert batch.token.token_id.encode() not in left and new.token.token_id.encode() in left
    assert same == gpu and gpu.token.token_id.encode() in left
    assert f"delete secret bootstrap-token-{batch.token.token_id}" in said.output
    assert batch.token.secret.reveal_text() not in said.output
    assert "batch, " in str(error.value)


def test_the_token_of_a_pool_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    rendered_token(tmp_path)
    render_cluster(make_cluster(nodes=[MASTER]), project=make_project(tmp_path), now=NOW)

    path = tmp_path / "state" / "lab" / "state"
    assert decode(path.read_bytes(), path=path, cluster="lab").tokens == {}
    assert not (tmp_path / "build" / "nodes" / "lab" / "batch").exists()


def test_a_list_of_tokens_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, cluster = make_project(tmp_path), make_cluster(**pools({}))
    write_cluster(project, cluster_data(**pools({})))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no token yet for pool batch"):
        operation.rendered_tokens(project, cluster)
    render_cluster(cluster, project=project, now=NOW)
    (found,) = operation.rendered_tokens(project, cluster)

    said = CliRunner().invoke(app, ["tokens", "lab"], catch_exceptions=False).output
    objects = CliRunner().invoke(app, ["tokens", "lab", "--manifest"]).output

    assert found.token.token_id in said and "2026-12-23" in said
    assert found.token.secret.reveal_text() not in said
    assert found.token.secret.reveal_text() in objects
