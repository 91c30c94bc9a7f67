# SPDX-License-Identifier: Apache-2.0
"""Is a wrong protection refused, and user-data that shows a secret found?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cloudinit import check
from cloudinit.protect import NOTE_PATH
from cloudinit.rules import findings, load_cluster
from kubekiln.channel import CHANNELS
from kubekiln.errors import ConfigError
from tests.support.clusters import (
    cluster_data,
    make_cluster,
    make_project,
    make_state,
    write_cluster,
)
from tests.support.protection import AGE, POOL, URL


def test_the_second_look_finds_a_key_in_what_the_platform_gets(tmp_path: Path) -> None:
    context = make_context(tmp_path)
    planted = (
        b"#cloud-config\nruncmd: []\nwrite_files:\n"
        b"- {path: /etc/x, content: '-----BEGIN EC PRIVATE KEY-----'}\n"
    )

    said = list(check.exposure_problems(context, planted))

    assert [line.partition(" ")[2] for line in said] == [
        "user-data has the key runcmd",
        "user-data of lab-1 shows a secret in /etc/x",
        f"last file of protected user-data is not {NOTE_PATH}",
    ]


def make_context(root: Path) -> Any:
    from cloudinit.render import render_payloads

    cluster, project = make_cluster(**AGE), make_project(root)
    return render_payloads(cluster, state=make_state(root), project=project)[0].context


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"userdata": {"protect": "url"}}, "protect url needs userdata.server"),
        ({"userdata": {"protect": "age", "server": "https://a:1"}}, "is for protect: url, not for"),
        ({"userdata": {"server": "http://10.80.0.5:8443"}}, "is not https://HOST:PORT"),
        ({"userdata": {"server": "https://10.80.0.5"}}, "is not https://HOST:PORT"),
        ({"userdata": {"server": "https://10.80.0.5:99999"}}, "is not https://HOST:PORT"),
        ({**URL, **POOL}, "pool batch has many"),
    ],
)
def test_a_wrong_protection_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    project = make_project(tmp_path)
    write_cluster(project, cluster_data(**changes))

    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        load_cluster("lab", project)

    assert "lab.yaml:" in str(refused.value)


@pytest.mark.parametrize("server", ["https://[fd00::5]:8443/", "https://kiln.example:1"])
def test_a_server_may_have_any_kind_of_name(server: str) -> None:
    cluster = make_cluster(userdata={"protect": "url", "server": server})

    assert findings(cluster) == []
    assert cluster.userdata.server == server.rstrip("/")


def test_every_channel_that_keeps_it_readable_says_for_whom() -> None:
    assert [name for name, channel in CHANNELS.items() if not channel.readable] == ["nocloud"]
