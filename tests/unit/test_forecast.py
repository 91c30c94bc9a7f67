# SPDX-License-Identifier: Apache-2.0
"""Does a dry run know what a bake and a boot would do, and leave everything as it is?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kubekiln.errors import ConfigError, KubekilnError, Problem
from kubekiln.operations.dryrun import UpPlan, plan_up
from kubekiln.operations.profile import Shape, find_or_make, resolve
from kubekiln.paths import Project
from pipeline import forecast
from pipeline.forecast import forecast_bake
from pipeline.lock import Lock
from pipeline.model import load_image
from pipeline.plan import make_plan
from pipeline.sources.provider import Request
from pipeline.stages import preflight
from pipeline.stages.fetch import Fetched, Fetcher, fetch_components
from pipeline.targets import registry
from pipeline.targets.record import record_of, write_record
from tests.support.clusters import make_project, snapshot
from tests.support.file_server import Site, serving
from tests.support.host import let_bake
from tests.support.locks import archive, artefact, context_of, lock_of, program, real_lock
from tests.support.machines import make_machine
from tests.support.target import FakeTarget

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with its elements and an empty cache; the host's own apt sources don't count."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "TARGETS", {"fake": lambda: FakeTarget(state="running")})
    let_bake(monkeypatch)
    project = make_project(tmp_path / "project")
    project.elements_dir.symlink_to(ROOT / "elements")
    image = project.configs_dir / "images" / "debian-13.yaml"
    apt = {"apt": {"build_mirror": "http://deb.example/debian"}}
    image.write_text(image.read_text() + yaml.safe_dump(apt))
    return project


def planned(project: Project, name: str, **shape: int) -> UpPlan:
    return plan_up(project, resolve(project, name, Shape(**shape)), target_name="fake")


def test_without_a_cache_everything_is_to_do_and_nothing_is_written(
    project: Project, tmp_path: Path
) -> None:
    before = snapshot(tmp_path)

    plan = planned(project, "try", nodes=2)

    assert [step.is_cached for step in plan.steps] == [False] * 5
    assert "kubernetes 1.37.1" in plan.steps[1].detail
    assert [n.action for n in plan.nodes] == ["made and booted"] * 2
    assert snapshot(tmp_path) == before
    assert not project.state_dir.exists() and not project.build_dir.exists()


def test_what_up_would_refuse_is_refused(project: Project) -> None:
    (project.nodes_dir / "try" / "try-1").mkdir(parents=True)

    with pytest.raises(ConfigError, match="the state of cluster try is missing"):
        planned(project, "try", nodes=1)


def test_a_host_that_cannot_bake_is_said(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_tools", lambda: [Problem("sfdisk is missing")])

    with pytest.raises(ConfigError, match="sfdisk is missing"):
        planned(project, "try", nodes=1)


def test_what_is_in_the_caches_is_known(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = load_image("debian-13", project)
    plan = make_plan(image, project)
    plan.base.directory.mkdir(parents=True)
    for name in plan.base.outputs:
        plan.base.output(name).write_text(name)
    (tmp_path / "tool").write_text("tool")
    files = {"tool": tmp_path / "tool"}
    found = {
        name: Fetched(name, version, "amd64", "gomod", files, {name: tmp_path / "tool"})
        for name, version in image.components.items()
    }
    monkeypatch.setattr(forecast, "look_up_components", lambda *_: (found, []))
    rootfs = plan.rootfs(forecast.choose(found).digests)
    rootfs.directory.mkdir(parents=True)
    rootfs.output("root.tar").touch()

    steps = forecast_bake(image, project=project, lock=real_lock())

    assert [step.is_cached for step in steps] == [True, True, True, False, False]


def test_the_files_and_machines_of_a_cluster_that_is_there_are_told_from_new_ones(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "mine"))
    find_or_make(project, "try", Shape(nodes=2))
    profile = resolve(project, "try", Shape())
    (project.state_dir / "try").mkdir()
    run_dir = project.machines_dir / "try" / "try-master-1"
    write_record(record_of("fake", make_machine(tmp_path, name="try-master-1", run_dir=run_dir)))

    plan = plan_up(project, profile, target_name="fake", merges_kubeconfig=True)

    assert [n.action for n in plan.nodes] == ["runs already", "made and booted"]
    files = {str(f.path.relative_to(tmp_path)): f.why for f in plan.files}
    assert "project/state/try.yaml" not in files
    assert files["project/state/try"] == "keys and certificates, as before"
    assert files["mine"] == "context try"
    machines = project.machines_dir / "try"
    named = {f.path for f in plan.files}
    assert machines / "try-worker-1" in named and machines / "try-master-1" not in named


def test_what_up_would_refuse_a_dry_run_refuses_too(project: Project, tmp_path: Path) -> None:
    find_or_make(project, "try", Shape(nodes=1))
    run_dir = project.machines_dir / "try" / "try-1"
    write_record(record_of("qemu", make_machine(tmp_path, name="try-1", run_dir=run_dir)))

    with pytest.raises(KubekilnError, match="try-1 is there already as a machine of target qemu"):
        planned(project, "try")


def composed_lock(site: Site) -> Lock:
    """A component that is a container image as well."""
    content = archive({"tool": program()})
    site.files["/tool.tar.gz"] = content
    entry = artefact(f"{site.url}/tool.tar.gz", content, {"tool": "tool"})
    image = {"reference": "tool:1", "binary": "tool", "entrypoint": ["/tool"]}
    return lock_of({"tool": {"1.0": {"upstream": {"amd64": [entry]}, "images": [image]}}})


def test_looking_up_finds_what_was_fetched_and_composed_and_asks_nobody(tmp_path: Path) -> None:
    with serving(Site()) as site:
        context = context_of(tmp_path, composed_lock(site))
        release = context.lock.release("tool", "1.0")
        fetcher = Fetcher(context, ("upstream",))
        wanted = Request("tool", "1.0", "amd64", release, context)

        assert fetcher.look_up(wanted) is None
        assert site.requests == [] and not (tmp_path / "store").exists()

        fetched = fetch_components(
            context.lock, {"tool": "1.0"}, architecture="amd64", providers=["upstream"],
            store=context.store,
        )["tool"]  # fmt: skip
        asked = len(site.requests)
        found = fetcher.look_up(wanted)

    assert found is not None and asked == len(site.requests)
    assert (found.files, found.images) == (fetched.files, fetched.images)
    assert list(found.images) == ["tool:1"]
