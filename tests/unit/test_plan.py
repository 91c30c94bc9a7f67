# SPDX-License-Identifier: Apache-2.0
"""Does each stage of a bake run again when, and only when, something it depends on changed?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import ConfigError
from kubekiln.paths import Project
from pipeline.elements import resolve
from pipeline.model import Image, load_image
from pipeline.plan import Plan, make_plan

ROOT = Path(__file__).resolve().parents[2]
FILES = {"kubernetes/kubelet": "a" * 64, "containerd/containerd": "b" * 64}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    shutil.copytree(ROOT / "elements", tmp_path / "elements", symlinks=True)
    return Project(tmp_path)


def image(**changes: Any) -> Image:
    loaded = load_image("debian-13", Project(ROOT))
    return Image.model_validate({**loaded.model_dump(), **changes})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(plan: Plan, packages: str = "base-files 13 amd64\n") -> Plan:
    """Make as if the base were there."""
    plan.base.directory.mkdir(parents=True, exist_ok=True)
    plan.base.output("packages").write_text(packages)
    return plan


def digests(plan: Plan, files: dict[str, str] = FILES) -> tuple[str, str, str]:
    if not plan.base.output("packages").is_file():
        made(plan)
    rootfs = plan.rootfs(files)
    return plan.base.digest, rootfs.digest, plan.disk(rootfs).digest


def changed(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    names = ("base", "rootfs", "disk")
    return [n for n, a, b in zip(names, before, after, strict=True) if a != b]


def test_the_same_inputs_give_the_same_digests(project: Project) -> None:
    assert digests(make_plan(image(), project)) == digests(make_plan(image(), project))


def test_another_program_changes_the_upper_layer_and_the_disk(project: Project) -> None:
    plan = make_plan(image(), project)

    after = digests(plan, {**FILES, "kubernetes/kubelet": "c" * 64})

    assert changed(digests(plan), after) == ["rootfs", "disk"]


def test_another_file_of_an_element_changes_the_upper_layer_and_the_disk(project: Project) -> None:
    before = digests(make_plan(image(), project))

    (project.elements_dir / "k8s-base/static/etc/motd").write_text("hello\n")

    assert changed(before, digests(make_plan(image(), project))) == ["rootfs", "disk"]


def test_another_diskimage_builder_repeats_all_that_it_makes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(make_plan(image(), project))

    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0.1")
    plan = make_plan(image(), project)

    assert changed(before, digests(plan)) == ["base", "rootfs", "disk"]


def test_the_mode_of_a_file_counts(project: Project) -> None:
    before = digests(make_plan(image(), project))

    (project.elements_dir / "k8s-seal/finalise.d/88-k8s-seal").chmod(0o644)

    assert changed(before, digests(make_plan(image(), project))) == ["rootfs", "disk"]


def test_other_versions_of_packages_change_the_upper_layer_and_the_disk(project: Project) -> None:
    plan = make_plan(image(), project)

    before, after = digests(plan), digests(made(plan, "base-files 13.1 amd64\n"))

    assert changed(before, after) == ["rootfs", "disk"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"packages": ["nfs-common"]}, ["base"]),
        ({"release": "forky"}, ["base"]),
        ({"kernel_arguments": ["console=ttyS0"]}, ["rootfs", "disk"]),
        ({"datasources": ["OpenStack", "None"]}, ["rootfs", "disk"]),
        ({"datasources": ["VMware"]}, ["base", "rootfs", "disk"]),
        ({"disk": {"size_mib": 8192}}, ["disk"]),
        ({"providers": ["upstream"]}, []),
        ({"apt": {"mirror": "http://m.example/debian"}}, ["rootfs", "disk"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_change_of_the_configuration_repeats_only_what_it_touches(
    project: Project, changes: dict[str, Any], expected: list[str]
) -> None:
    before = digests(make_plan(image(apt=_apt("http://n.example/debian")), project))
    merged = {"apt": _apt("http://n.example/debian"), **changes}
    if "apt" in changes:
        merged["apt"] = _apt("http://m.example/debian")

    after = digests(make_plan(image(**merged), project))

    assert changed(before, after) == expected


def _apt(mirror: str) -> dict[str, str]:
    return {
        "mirror": mirror,
        "security_mirror": f"{mirror}-security",
        "build_mirror": "http://b.example/debian",
        "build_security_mirror": "http://b.example/debian-security",
    }


def test_the_mirror_a_bake_installs_from_is_no_input(project: Project) -> None:
    there = {**_apt("http://n.example/debian"), "build_mirror": "http://elsewhere.example/debian"}

    before = digests(make_plan(image(apt=_apt("http://n.example/debian")), project))

    assert changed(before, digests(make_plan(image(apt=there), project))) == []


def test_packages_of_all_elements_are_installed_at_once(project: Project) -> None:
    plan = make_plan(image(packages=["nfs-common"]), project)

    assert {"cloud-init", "systemd-sysv", "linux-image-cloud-amd64", "nfs-common"} <= {
        *plan.packages
    }
    assert "linux-image-cloud-arm64" not in plan.packages


def test_what_elements_depend_on_comes_with_them(project: Project) -> None:
    found = {element.name for element in resolve(["k8s-images"], project.elements_dir)}

    assert found == {"k8s-images", "k8s-components", "k8s-containerd", "k8s-base", "k8s-debian"}


def test_every_missing_element_is_named_at_once(project: Project) -> None:
    (project.elements_dir / "k8s-seal/element-deps").write_text("k8s-gone\n")

    with pytest.raises(ConfigError) as caught:
        resolve(["k8s-seal", "k8s-typo"], project.elements_dir)

    assert len(caught.value.problems) == 2
    assert "'k8s-gone', asked for by element 'k8s-seal'" in str(caught.value)
    assert "'k8s-typo'" in str(caught.value)
    assert f"at {project.elements_dir / 'k8s-seal/element-deps'}\n" in str(caught.value)
