# SPDX-License-Identifier: Apache-2.0
"""Does `kubekiln serve` listen where it is told, and refuse to serve what is for nobody?"""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloudinit.render import render_cluster
from kubekiln.cli.main import app
from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.operations.serve import Store, UserDataServer, listen_address
from kubekiln.paths import Project
from tests.support.clusters import cluster_data, make_cluster, make_project, write_cluster
from tests.support.userdata_server import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_the_verb_says_who_has_not_fetched_yet_and_ends_well(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    server = {"protect": "url", "server": f"https://127.0.0.1:{site.port}"}
    write_cluster(site.project, cluster_data(userdata=server))
    monkeypatch.setattr(UserDataServer, "serve_forever", interrupt)
    monkeypatch.chdir(site.project.root)

    again = CliRunner().invoke(app, ["serve", "lab", "--again", "lab-1"])
    result = CliRunner().invoke(app, ["serve", "lab", "--listen", f"127.0.0.1:{site.port}"])

    assert again.output == "lab-1 may fetch once more, for 24 hours\n"
    assert result.exit_code == 0
    assert f"lab at https://127.0.0.1:{site.port}: 1 waits, 0 fetched, 0 expired" in result.output
    assert re.search(r"authority sha256 [0-9A-F]{64}", result.output)


def test_a_cluster_that_fetches_nothing_or_was_not_rendered_is_refused(tmp_path: Path) -> None:
    project = Project(tmp_path)
    server = {"protect": "url", "server": "https://127.0.0.1:1"}

    with pytest.raises(ConfigError, match="the nodes of lab fetch nothing"):
        Store(make_cluster(), project)
    with pytest.raises(ConfigError, match="was not rendered yet"):
        Store(make_cluster(userdata=server), project)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ("0.0.0.0", 8443)),
        ("10.80.0.5:9000", ("10.80.0.5", 9000)),
        ("[fd00::5]:9000", ("fd00::5", 9000)),
        ("8443", None),
        ("10.80.0.5:99999", None),
    ],
)
def test_where_to_listen(given: str | None, expected: tuple[str, int] | None) -> None:
    server = {"protect": "url", "server": "https://kiln.example:8443"}
    cluster = make_cluster(userdata=server)

    if expected is None:
        with pytest.raises(ConfigError, match="is not ADDRESS:PORT"):
            listen_address(cluster, given)
    else:
        assert listen_address(cluster, given) == expected


def test_a_port_that_is_taken_is_an_error_with_a_hint(site: Site) -> None:
    store = Store(site.cluster, site.project)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", site.port))
        taken.listen()
        with pytest.raises(KubekilnError, match=f"cannot listen on 127.0.0.1 port {site.port}"):
            UserDataServer(store, "127.0.0.1", site.port, log=print)


def test_a_server_before_the_first_rendering_of_its_kind_is_refused(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    render_cluster(make_cluster(), project=project)
    server = {"protect": "url", "server": "https://127.0.0.1:1"}

    with pytest.raises(ConfigError, match="nothing of lab was rendered to be fetched"):
        Store(make_cluster(userdata=server), project)
