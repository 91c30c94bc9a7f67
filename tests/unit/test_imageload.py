# SPDX-License-Identifier: Apache-2.0
"""Do container images reach every node that has a door, and is it said where there is none?"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.operations.imageload import load_images, read_names
from kubekiln.paths import Project
from kubekiln.process import Command, Result
from pipeline.targets import nspawn, registry
from pipeline.targets.machine import Machine
from pipeline.targets.nspawn import NspawnTarget
from pipeline.targets.protocol import Enterable
from pipeline.targets.qemu import QemuTarget
from pipeline.targets.record import record_of, write_record
from tests.support.machines import make_machine

DOCKER = {"manifest.json": [{"RepoTags": ["web:1", "ghcr.io/me/app:2"], "Layers": []}]}


def archive(path: Path, files: dict[str, Any], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def index(**annotations: str) -> dict[str, Any]:
    return {"index.json": {"manifests": [{"annotations": annotations}]}}


@dataclass
class Doored:
    name: str = "doored"
    done: list[tuple[str, Sequence[str], Path | None]] = field(default_factory=list)

    def run_inside(
        self, machine: Machine, argv: Sequence[str], *, stdin_file: Path | None = None
    ) -> Result:
        self.done.append((machine.name, argv, stdin_file))
        return Result(0)


def add(project: Project, target: str, name: str, role: str) -> None:
    run_dir = project.machines_dir / "lab" / name
    machine = make_machine(project.root, name=name, role=role, run_dir=run_dir)
    write_record(record_of(target, machine))


def test_every_node_that_runs_pods_gets_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, project = Doored(), Project(tmp_path)
    monkeypatch.setattr(registry, "TARGETS", {"doored": lambda: target})
    for name, role in (("m", "master"), ("w", "worker"), ("e", "etcd"), ("l", "lb")):
        add(project, "doored", name, role)
    file = archive(tmp_path / "a.tar", DOCKER)

    loaded = load_images(project, file, None)

    assert loaded.images == ("docker.io/library/web:1", "ghcr.io/me/app:2")
    assert loaded.nodes == ("m", "w")
    command = ["/usr/local/bin/ctr", "--namespace=k8s.io", "images", "import", "-"]
    assert target.done == [("m", command, file), ("w", command, file)]


def test_a_machine_without_a_door_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, project = Doored(), Project(tmp_path)
    monkeypatch.setattr(registry, "TARGETS", {"doored": lambda: target, "qemu": QemuTarget})
    add(project, "doored", "a", "master")
    add(project, "qemu", "b", "worker")

    with pytest.raises(KubekilnError, match="b is a machine of target qemu") as error:
        load_images(project, archive(tmp_path / "a.tar", DOCKER), "lab")

    assert "--target nspawn" in str(error.value)
    assert target.done == []


def test_without_machines_it_says_so(tmp_path: Path) -> None:
    file = archive(tmp_path / "a.tar", DOCKER)

    for cluster, said in ((None, "no machines"), ("lab", "no machines of lab")):
        with pytest.raises(ConfigError, match=said):
            load_images(Project(tmp_path), file, cluster)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        pytest.param(DOCKER, ("docker.io/library/web:1", "ghcr.io/me/app:2"), id="docker"),
        pytest.param(
            {**index(**{"io.containerd.image.name": "docker.io/library/web:1",
                        "org.opencontainers.image.ref.name": "1"}),
             "manifest.json": [{"RepoTags": ["web:1"]}]},
            ("docker.io/library/web:1",), id="docker-25"),
        pytest.param(index(**{"org.opencontainers.image.ref.name": "localhost:5000/a:1"}),
                     ("localhost:5000/a:1",), id="oci"),
        pytest.param({"./manifest.json": [{"RepoTags": ["me/app"]}]},
                     ("docker.io/me/app:latest",), id="no-tag"),
    ],
)  # fmt: skip
def test_images_are_named_as_a_pod_would_name_them(
    tmp_path: Path, files: dict[str, Any], names: tuple[str, ...]
) -> None:
    assert read_names(archive(tmp_path / "a.tar", files)) == names
    assert read_names(archive(tmp_path / "a.tgz", files, "w:gz")) == names


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param({"manifest.json": [{"RepoTags": None}]}, "no image .* whole name", id="none"),
        pytest.param(index(**{"org.opencontainers.image.ref.name": "1"}), "whole name", id="tag"),
        pytest.param(index(**{"org.opencontainers.image.ref.name": "web:1"}), "whole name",
                     id="short"),
        pytest.param({"README": "hello"}, "neither index.json nor manifest.json", id="other-tar"),
        pytest.param({"manifest.json": {"a": 1}}, "cannot read", id="other-json"),
    ],
)  # fmt: skip
def test_an_archive_that_no_pod_could_use_is_refused(
    tmp_path: Path, files: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_names(archive(tmp_path / "a.tar", files))


@pytest.mark.parametrize("name", ["nosuch.tar", "text"])
def test_a_file_that_is_no_archive_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "text").write_text("hello")

    with pytest.raises(ConfigError, match="as an archive of container images") as error:
        read_names(tmp_path / name)

    assert len(error.value.problems[0].lines()) == 2


@pytest.mark.parametrize("how", ["gz", "xz"])
@pytest.mark.parametrize("damage", ["cut off", "other bytes"])
def test_a_compressed_archive_that_is_damaged_is_refused(
    tmp_path: Path, how: str, damage: str
) -> None:
    layer = random.Random(1).randbytes(1 << 20).decode("latin1")
    plain = archive(tmp_path / "a.tar", {"layer": layer, "manifest.json": []}).read_bytes()
    packed = gzip.compress(plain) if how == "gz" else lzma.compress(plain)
    half = len(packed) // 2
    (tmp_path / "a").write_bytes(packed[:half] + (bytes(half) if damage == "other bytes" else b""))

    with pytest.raises(ConfigError, match="as an archive of container images"):
        read_names(tmp_path / "a")


def test_a_container_machine_is_entered_at_its_first_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Command] = []
    monkeypatch.setattr(nspawn, "find_processes", lambda *_: [7])
    monkeypatch.setattr(nspawn, "leader", lambda _: 42)
    monkeypatch.setattr(nspawn, "run", lambda command: ran.append(command) or Result(0))
    target = NspawnTarget()

    target.run_inside(make_machine(tmp_path), ["/bin/true", "-x"], stdin_file=tmp_path / "a")

    assert ran[0].argv == ["nsenter", "--all", "--target=42", "--", "/bin/true", "-x"]
    assert ran[0].as_root and ran[0].stdin_file == tmp_path / "a"
    assert isinstance(target, Enterable) and not isinstance(QemuTarget(), Enterable)


def test_a_container_machine_that_does_not_run_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nspawn, "find_processes", lambda *_: [])

    with pytest.raises(KubekilnError, match="lab-1 does not run"):
        NspawnTarget().run_inside(make_machine(tmp_path), ["/bin/true"])
