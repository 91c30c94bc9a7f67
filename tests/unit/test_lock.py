# SPDX-License-Identifier: Apache-2.0
"""Is the committed lock whole, honest about its proofs, and what components.yaml asks for?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kubekiln.errors import ConfigError
from pipeline.components import Components, fill_in, load_components
from pipeline.lock import ARCHITECTURES, Release, load_lock
from pipeline.relock.check import check_lock
from pipeline.relock.write import render_lock, write_lock
from pipeline.sources.gomod import GOMODULES_DIR, mod_digest
from tests.support.locks import LOCK_FILE, real_lock

COMPONENTS_FILE = LOCK_FILE.with_name("components.yaml")
DEFAULT = ("kubernetes", "etcd", "containerd", "runc", "cni-plugins", "crictl", "flannel",
           "coredns", "pause")  # fmt: skip
# Nobody independent of their release sites, which can't be reached here, says their hashes.
NO_UPSTREAM = {"coredns", "flannel", "pause"}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "sources.md"


def components() -> Components:
    return load_components(COMPONENTS_FILE)


def releases() -> list[tuple[str, str, Release]]:
    found = [(c, v, r) for c, rs in real_lock().components.items() for v, r in rs.items()]
    assert found
    return found


def test_the_lock_is_what_components_yaml_asks_for() -> None:
    assert check_lock(real_lock(), components(), gomodules_dir=GOMODULES_DIR) == []


def test_the_lock_file_is_as_it_would_be_written() -> None:
    assert render_lock(real_lock()) == LOCK_FILE.read_text()


def test_every_default_component_builds_from_go_modules_for_both_architectures() -> None:
    for component in DEFAULT:
        release = next(iter(real_lock().components[component].values()))
        for architecture in ARCHITECTURES:
            assert "gomod" in release.providers(architecture), component


def test_every_go_build_on_amd64_has_its_hash_on_record() -> None:
    for component in DEFAULT:
        build = next(iter(real_lock().components[component].values())).gomod
        assert build is not None
        names = {*build.packages, *build.c_programs}
        on_record = [set(b.sha256) for b in build.built if b.architecture == "amd64"]
        assert names in on_record, component


def test_every_upstream_pin_names_its_evidence() -> None:
    pins = [
        (component, artefact)
        for component, _, release in releases()
        for artefacts in release.upstream.values()
        for artefact in artefacts
    ]
    assert pins
    for component, artefact in pins:
        assert artefact.proof.kind == "none" or artefact.proof.evidence, component


def test_every_default_component_has_an_upstream_pin_but_those_that_the_docs_name() -> None:
    without = {
        component for component in DEFAULT
        if not next(iter(real_lock().components[component].values())).upstream
    }  # fmt: skip

    assert without == NO_UPSTREAM
    assert "no upstream pin: coredns, flannel, pause" in DOCS.read_text()


def test_go_sum_has_a_line_for_the_module_itself_or_the_patch_has_it() -> None:
    checked = 0
    for component, version, release in releases():
        build = release.gomod
        if build is None:
            continue
        directory = GOMODULES_DIR / build.directory
        pinned = directory / "patch" / f"{build.module}.sum"
        line = f"{build.module} {build.version} {build.sum}\n"
        text = (directory / "go.sum").read_text()
        assert line in text or pinned.read_text().strip() == build.sum, (component, version)
        assert mod_digest(directory) == build.mod_sha256
        checked += 1
    assert checked >= len(DEFAULT)


def test_a_changed_go_sum_is_noticed(tmp_path: Path) -> None:
    for name in ("go.mod", "go.sum"):
        (tmp_path / name).write_text("a\n")
    before = mod_digest(tmp_path)

    (tmp_path / "go.sum").write_text("b\n")

    assert mod_digest(tmp_path) != before


def test_a_version_that_is_wanted_but_not_locked_is_said() -> None:
    wanted = components()
    kubernetes = wanted.components["kubernetes"]
    more = kubernetes.model_copy(update={"versions": (*kubernetes.versions, "1.99.0")})
    changed = wanted.model_copy(update={"components": {**wanted.components, "kubernetes": more}})

    problems = check_lock(real_lock(), changed, gomodules_dir=GOMODULES_DIR)

    assert [p.what for p in problems] == ["kubernetes 1.99.0 is wanted and not locked"]


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        ("flannel.gomod.tags", ["netgo"], "flannel 0.28.9: tags differ"),
        ("flannel.gomod.note", "other", "flannel 0.28.9: note differ"),
        ("crictl.gomod.ldflags", [], "crictl 1.36.0: ldflags differ"),
        ("runc.gomod.cgo", False, "runc 1.4.3: cgo differ"),
        ("runc.gomod.c_libraries", {}, "runc 1.4.3: c_libraries differ"),
        ("etcd.gomod.packages.etcd", "x", "etcd 3.6.14: packages differ"),
        ("coredns.gomod.module", "x", "coredns 1.14.7: module differ"),
        ("pause.gomod.module_version", "v1.36.3", "pause 3.10.2: version differ"),
        ("pause.gomod.c_programs.pause.cflags", ["-O0"], "pause 3.10.2: c_programs differ"),
        ("pause.images", [], "pause 3.10.2: images differ"),
        ("etcd.upstream.url", "https://host/x", "etcd 3.6.14: the amd64 artefact is not"),
        ("etcd.upstream.files", {"etcd": "etcd"},
         "etcd 3.6.14: files of the amd64 artefact differ"),
        ("etcd.upstream", None, "etcd 3.6.14: upstream is locked, not wanted"),
        ("ca-certificates.deb.files", {"a.crt": "./x"},
         "ca-certificates 20250419: files of Debian's amd64 file differ"),
        ("ca-certificates.deb.package", "other",
         "ca-certificates 20250419: Debian's amd64 file is not"),
        ("ca-certificates.deb.suite", "sid",
         "ca-certificates 20250419: Debian's amd64 file is not"),
        ("libseccomp.deb.file", "libseccomp_{version}.debian.tar.xz",
         "libseccomp 2.6.0: Debian's amd64 file is not"),
        ("libseccomp.deb", None, "libseccomp 2.6.0: deb is locked, not wanted"),
        ("toolchains.go", "1.99.9", "go 1.99.9 is wanted"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)  # fmt: skip
def test_an_edit_of_components_yaml_is_said(at: str, value: object, said: str) -> None:
    data = yaml.safe_load(COMPONENTS_FILE.read_text())
    *parents, key = at.split(".")
    place = data if parents[0] == "toolchains" else data["components"]
    for parent in parents:
        place = place[parent]
    assert key in place
    place[key] = value

    problems = check_lock(real_lock(), Components.model_validate(data), gomodules_dir=GOMODULES_DIR)

    assert said in [p.what[: len(said)] for p in problems]
    assert {p.hint for p in problems} == {"run `kubekiln lock update`"}


def test_a_file_that_is_no_longer_wanted_of_upstream_is_said() -> None:
    data = yaml.safe_load(COMPONENTS_FILE.read_text())
    del data["components"]["kubernetes"]["upstream"]["files"]["kubeadm"]

    problems = check_lock(real_lock(), Components.model_validate(data), gomodules_dir=GOMODULES_DIR)

    locked = real_lock().components["kubernetes"]
    assert len(problems) == sum(len(release.upstream) for release in locked.values()) > 0


def test_missing_go_modules_are_said(tmp_path: Path) -> None:
    problems = check_lock(real_lock(), components(), gomodules_dir=tmp_path)

    assert any(p.what.startswith("no go.mod in") for p in problems)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "abc"}, "sha256"),
        ({"sha256": None}, "has no hash"),
        ({"url": "ftp://host/file"}, "url"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_pin_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    lines = [
        "format: 1", "toolchains:", *_toolchain("go"), *_toolchain("zig"),
        "components:", "  pkg:", "    '1.0':", "      upstream:", "        amd64:",
    ]  # fmt: skip
    entry: dict[str, Any] = {
        "url": "https://host/file", "sha256": "0" * 64, "files": {"a": "a"},
        "proof": {"kind": "none"},
    } | change  # fmt: skip
    path = tmp_path / "lock.yaml"
    shown = ", ".join(f"{key}: {_yaml(value)}" for key, value in entry.items())
    path.write_text("\n".join([*lines, f"        - {{{shown}}}"]) + "\n")

    with pytest.raises(ConfigError) as caught:
        load_lock(path)

    assert said in str(caught.value)
    assert f"{path}:" in str(caught.value)


def _toolchain(name: str) -> list[str]:
    return [f"  {name}: {{package: {name}, version: '1.0', wheels: {{}}}}"]


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
    return f"'{value}'"


def test_an_unchanged_lock_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "lock.yaml"

    assert write_lock(real_lock(), path)
    assert not write_lock(real_lock(), path)
    assert load_lock(path) == real_lock()


def test_an_unquoted_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "components.yaml"
    path.write_text(
        'toolchains: {go: "1.26.6", zig: "0.17.1"}\ncomponents: {pkg: {versions: [1.30]}}\n'
    )

    with pytest.raises(ConfigError, match="version 1.3 is not quoted"):
        load_components(path)


def test_templates_are_filled_in() -> None:
    template = {"a": ("v{version}", "{major}.{minor}"), "b": "{arch}", "c": "{other}"}

    assert fill_in(template, "1.37.1", "arm64") == {
        "a": ("v1.37.1", "1.37"),
        "b": "arm64",
        "c": "{other}",
    }
