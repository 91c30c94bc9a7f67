# SPDX-License-Identifier: Apache-2.0
"""Do the verbs that run a cluster take their options, and print what their users need?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kubekiln.cli.main import app
from kubekiln.errors import ConfigError
from kubekiln.operations import addons, dryrun, imageload, prepare, tunnel, up
from kubekiln.operations.kubectl import Admin
from kubekiln.operations.tunnel import Forward, Tunnel
from kubekiln.operations.up import Up
from kubekiln.paths import Project
from pipeline.targets import registry
from pipeline.targets.record import record_of, write_record
from tests.support.clusters import make_project, snapshot
from tests.support.host import let_bake
from tests.support.kubeconfigs import rendered
from tests.support.machines import make_machine
from tests.support.target import FakeTarget


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "mine"))
    monkeypatch.setattr(registry, "TARGETS", {"fake": FakeTarget})
    return make_project(tmp_path)


@pytest.fixture
def brought_up(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What `up` was about to bring up: cluster and options."""
    found: list[tuple[str, Any]] = []

    def bring_up(_project: Project, plan: prepare.Plan, **options: Any) -> Up:
        found.append((plan.cluster.name, {"nodes": len(plan.cluster.nodes), **options}))
        rendered(project.root, plan.cluster.name)
        names = tuple(node.name for node in plan.cluster.nodes)
        return Up(plan.cluster.name, project.state_dir / "admin.kubeconfig", names, 12.0)

    monkeypatch.setattr(up, "bring_up", bring_up)
    monkeypatch.setattr(dryrun, "check_up", lambda *_, **__: None)
    return found


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words, catch_exceptions=True, env={"COLUMNS": "300"})


def said(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def add_machine(project: Project, cluster: str) -> None:
    run_dir = project.machines_dir / cluster / f"{cluster}-1"
    write_record(record_of("fake", make_machine(project.root, cluster=cluster, run_dir=run_dir)))


def test_up_with_options_makes_a_cluster_and_later_needs_its_name_only(
    project: Project, brought_up: list[tuple[str, Any]]
) -> None:
    first = said("up", "try", "--nodes", "3", "--memory", "2048", "--target", "nspawn")
    said("up", "try", "--timeout", "60", "--keep")

    options = {"nodes": 3, "target_name": "nspawn", "timeout_s": None, "keep": False}
    assert brought_up[0] == ("try", options)
    assert brought_up[1] == (
        "try", {"nodes": 3, "target_name": "qemu", "timeout_s": 60.0, "keep": True}
    )  # fmt: skip
    assert "try is Ready after 12.0 s: try-master-1, try-worker-1, try-worker-2" in first
    assert not (project.root / "mine").exists()


@pytest.mark.parametrize(
    ("found", "started", "called"),
    [
        ("/usr/bin/kubekiln", ".venv/bin/kubekiln", "kubekiln"),
        (None, ".venv/bin/kubekiln", ".venv/bin/kubekiln"),
        (None, "/a/kubekiln/__main__.py", "python -m kubekiln"),
    ],
)
def test_up_prints_commands_that_the_users_shell_finds(
    brought_up: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch,
    found: str | None, started: str, called: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("shutil.which", lambda _name: found)
    monkeypatch.setattr("sys.argv", [started])

    shown = said("up", "solo")

    assert brought_up
    assert f"\n  {called} kubectl --on solo get pods" in shown
    assert f"\n`{called} down solo` removes" in shown


def test_up_merges_the_context_on_request(
    project: Project, brought_up: list[tuple[str, Any]]
) -> None:
    shown = said("up", "--merge-kubeconfig")

    assert brought_up[0][0] == "solo"
    assert f"context solo merged into {project.root / 'mine'}" in shown
    assert "name: solo" in (project.root / "mine").read_text()
    assert "already in" in said("kubeconfig", "merge", "solo")
    assert "no longer in" in said("kubeconfig", "unmerge", "solo")
    assert "was not merged" in said("kubeconfig", "unmerge", "solo")


@pytest.mark.parametrize(
    "words",
    [
        ["up", "try", "--nodes", "0"],
        ["up", "try", "--nodes", "201"],
        ["up", "try", "--memory", "1023"],
        ["up", "try", "--disk", "3"],
        ["up", "try", "--cpus", "two"],
    ],
    ids=lambda words: " ".join(words[2:]),
)
def test_numbers_that_make_no_sense_are_refused_as_usage(
    project: Project, brought_up: list[tuple[str, Any]], words: list[str]
) -> None:
    result = run(*words)

    assert result.exit_code == 2 and brought_up == []
    assert not project.state_dir.exists()


def test_a_dry_run_shows_stages_machines_and_files_and_changes_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.root / "cache"))
    let_bake(monkeypatch)
    project.elements_dir.symlink_to(Path(__file__).resolve().parents[2] / "elements")
    image = project.configs_dir / "images" / "debian-13.yaml"
    image.write_text(f"{image.read_text()}\napt: {{build_mirror: 'http://deb.example/debian'}}\n")
    before = snapshot(project.root)

    shown = said("up", "try", "--nodes", "2", "--target", "fake", "--dry-run")

    for expected in ("nothing is done", "Disk image", "to do", "try-worker-1", "10.90.0.21",
                     "state/try.yaml", "made and booted"):  # fmt: skip
        assert expected in shown
    assert snapshot(project.root) == before


def test_options_whose_cluster_cannot_come_up_here_leave_no_config(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "TARGETS", {"fake": lambda: FakeTarget(joins_machines=False)})
    before = snapshot(project.root)

    result = run("up", "try", "--nodes", "2", "--target", "fake")

    assert isinstance(result.exception, ConfigError)
    assert "try has 2 machines" in str(result.exception)
    assert snapshot(project.root) == before


def test_down_needs_a_name_only_if_several_clusters_have_machines(project: Project) -> None:
    assert "no machines" in said("down")
    add_machine(project, "a")
    add_machine(project, "b")

    assert isinstance(run("down").exception, ConfigError)
    assert isinstance(run("down", "--all", "a").exception, ConfigError)
    assert isinstance(run("down", "--forget").exception, ConfigError)


def test_a_config_that_lies_elsewhere_is_known_by_the_name_in_it(project: Project) -> None:
    config = project.root / "elsewhere" / "mine.yaml"
    config.parent.mkdir()
    config.write_bytes(project.config_path("clusters", "solo").read_bytes())
    add_machine(project, "mine")

    assert "no machines of solo" in said("status", str(config))
    assert "no machines of solo" in said("down", str(config))
    assert "solo was not merged" in said("kubeconfig", "unmerge", str(config))
    add_machine(project, "solo")
    assert " solo " in said("status", str(config))
    said("down", str(config))
    assert "no machines of solo" in said("status", "solo")
    assert " mine " in said("status", "mine")


def test_down_forgets_only_what_up_made(
    project: Project, brought_up: list[tuple[str, Any]]
) -> None:
    said("up", "try", "--nodes", "2")

    assert "state/try.yaml (by up)" in said("cluster", "list")
    assert "config, keys and rendered nodes are gone" in said("down", "try", "--forget")
    assert "try" not in said("cluster", "list")
    add_machine(project, "solo")
    assert isinstance(run("down", "solo", "--forget").exception, ConfigError)
    assert (project.machines_dir / "solo" / "solo-1" / "machine.json").exists()


def test_cluster_list_shows_a_config_that_is_wrong(project: Project) -> None:
    (project.configs_dir / "clusters" / "broken.yaml").write_text("nodes: []\n")

    shown = said("cluster", "list")

    assert [line.split()[1] for line in shown.splitlines() if "broken" in line] == ["invalid"]
    assert "10.82.0.0/24" in shown


def test_addons_of_a_persons_config_are_shown_to_be_written(project: Project) -> None:
    (project.configs_dir / "addons" / "hello.yaml").write_text("apiVersion: v1\nkind: ConfigMap\n")

    assert "hello" in said("addons", "list")
    shown = said("addons", "enable", "hello", "--on", "solo")

    assert "addons: [coredns, hello]" in shown and "solo.yaml" in shown
    assert "when its machines are made" in shown
    assert addons.list_addons(project, "solo")[1][1].is_enabled is False


def test_ctrl_c_ends_a_tunnel_well(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = Admin("lab", Path("kubectl"), Path("config"))
    way = Tunnel(admin, "shop", "web", (Forward(30080, 80, "http"),))

    def keep_open(_way: Tunnel, *, opened: Callable[[], None], lost: object) -> None:
        opened()
        raise KeyboardInterrupt

    monkeypatch.setattr(tunnel, "find_tunnel", lambda *_, **__: way)
    monkeypatch.setattr(tunnel, "keep_open", keep_open)

    result = run("tunnel", "web", "-n", "shop")

    assert result.exit_code == 0
    assert "http://127.0.0.1:30080  →  shop/web:80" in result.output


def test_image_load_names_what_is_where(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = imageload.Loaded(("docker.io/library/web:1",), ("a-1", "a-2"))
    monkeypatch.setattr(imageload, "load_images", lambda *_: loaded)

    assert said("image", "load", "a.tar") == "docker.io/library/web:1 is on a-1, a-2\n"
