# SPDX-License-Identifier: Apache-2.0
"""Does a build from Go modules depend on the pins and on nothing else?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import ConfigError, IntegrityError, StorageError
from kubekiln.files import locked
from kubekiln.process import Command, Result
from pipeline.lock import GoBuild
from pipeline.sources import gocommand, gomod
from pipeline.sources.gocommand import Go, run_go
from pipeline.sources.gomod import GoMod, executable_name, mod_digest, recorded, toolchain_name
from pipeline.sources.provider import Request
from tests.support.locks import context_of, lock_of, program, sha256

MODULE = "example.com/tool"


def build(directory: Path, **more: Any) -> GoBuild:
    return GoBuild.model_validate(
        {
            "directory": "tool/1.0",
            "module": MODULE,
            "version": "v1.0.0",
            "sum": "h1:x",
            "vouched": "sumdb",
            "mod_sha256": mod_digest(directory),
            "packages": {"tool": f"{MODULE}/cmd/tool"},
            "tags": ["netgo"],
            "ldflags": ["-X main.version=v1.0"],
        }
        | more
    )


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    directory = tmp_path / "gomodules" / "tool" / "1.0"
    directory.mkdir(parents=True)
    (directory / "go.mod").write_text("module kubekiln.invalid/tool\n")
    (directory / "go.sum").write_text(f"{MODULE} v1.0.0 h1:x\n")
    return directory


class FakeGo:
    """Stands for every process of a build: writes what `go build` would."""

    def __init__(self, output: bytes) -> None:
        self.output = output
        self.commands: list[Command] = []

    def watched(self, command: Command, **_: Any) -> None:
        self.commands.append(command)
        words = [str(a) for a in command.argv]
        out = Path(words[words.index("-o") + 1])
        for package in words[words.index("-ldflags") + 2 :]:
            (out / executable_name(package)).write_bytes(self.output)

    def asked(self, command: Command, **_: Any) -> Result:
        return Result(0, b"https://proxy.example\n" + b"\n" * 6)


@pytest.fixture
def fake_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGo:
    fake = FakeGo(program())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gomod, "run_go", fake.watched)
    monkeypatch.setattr(gocommand, "run", fake.asked)
    monkeypatch.setattr(gomod, "install_toolchain", lambda t, **_: tmp_path / t.package)
    return fake


def request_for(tmp_path: Path, modules: Path, **more: Any) -> Request:
    entry = build(modules, **more).model_dump()
    lock = lock_of({"tool": {"1.0": {"gomod": entry}}})
    context = context_of(tmp_path, lock)
    return Request("tool", "1.0", "amd64", lock.release("tool", "1.0"), context)


def provider(modules: Path) -> GoMod:
    return GoMod(lambda _c, _v: {}, gomodules_dir=modules.parents[1])


def fetch(tmp_path: Path, modules: Path, **more: Any) -> dict[str, Path]:
    request = request_for(tmp_path, modules, **more)
    with request.context.store.workspace() as directory:
        found = provider(modules).fetch(request, directory)
        return {name: path for name, path in found.items() if path.is_file()}


def test_all_programs_are_built_by_one_command(
    tmp_path: Path, modules: Path, fake_go: FakeGo
) -> None:
    packages = {"tool": f"{MODULE}/cmd/tool", "served": f"{MODULE}/server/v3"}

    found = fetch(tmp_path, modules, packages=packages)

    assert sorted(found) == ["served", "tool"]
    assert len(fake_go.commands) == 1
    words = [str(a) for a in fake_go.commands[0].argv]
    assert words[-2:] == [f"{MODULE}/cmd/tool", f"{MODULE}/server/v3"]
    assert {"-trimpath", "-mod=readonly", "-buildvcs=false"} <= set(words)
    assert words[words.index("-ldflags") + 1] == "-s -w -X main.version=v1.0"


def test_the_users_go_settings_do_not_reach_a_build_but_the_proxy_does(
    tmp_path: Path, modules: Path, fake_go: FakeGo
) -> None:
    fetch(tmp_path, modules)

    env = fake_go.commands[0].env
    assert env["GOPROXY"] == "https://proxy.example"
    assert (env["GOFLAGS"], env["GOENV"], env["GOWORK"]) == ("", "off", "off")
    assert (env["GOTOOLCHAIN"], env["CGO_ENABLED"], env["GOARCH"]) == ("local", "0", "amd64")
    assert env["GOCACHE"].startswith(str(tmp_path / "cache"))
    # Not in /tmp, where nobody clears away after a kill -9.
    assert env["GOTMPDIR"].startswith(str(tmp_path)) and Path(env["GOTMPDIR"]).name == "tmp"


def on_record(digest: str) -> list[dict[str, Any]]:
    go = lock_of({}).toolchains.go.version
    return [{"toolchain": f"go{go}", "architecture": "amd64", "sha256": {"tool": digest}}]


def test_a_build_that_gives_the_recorded_bytes_is_taken(
    tmp_path: Path, modules: Path, fake_go: FakeGo
) -> None:
    assert fetch(tmp_path, modules, built=on_record(sha256(program())))


def test_a_build_that_gives_other_bytes_is_refused(
    tmp_path: Path, modules: Path, fake_go: FakeGo
) -> None:
    with pytest.raises(IntegrityError, match="sha256 of the built tool is") as caught:
        fetch(tmp_path, modules, built=on_record("0" * 64))

    assert "on record is 0000" in str(caught.value)


def test_a_program_for_another_architecture_is_refused(
    tmp_path: Path, modules: Path, fake_go: FakeGo
) -> None:
    fake_go.output = program("arm64")

    with pytest.raises(IntegrityError, match="for arm64"):
        fetch(tmp_path, modules)


def test_changed_modules_are_refused_before_any_work(
    tmp_path: Path, modules: Path, fake_go: FakeGo
) -> None:
    pinned = mod_digest(modules)
    (modules / "go.sum").write_text("something else\n")

    with pytest.raises(ConfigError, match="not those of the lock"):
        fetch(tmp_path, modules, mod_sha256=pinned)

    assert fake_go.commands == []


def test_a_patch_counts_as_a_change(modules: Path) -> None:
    before = mod_digest(modules)
    patch = modules / "patch" / "example.com" / "x.go"
    patch.parent.mkdir(parents=True)
    patch.write_text("package x\n")

    assert mod_digest(modules) != before


def test_a_nearly_full_disk_is_said_before_the_build(
    tmp_path: Path, modules: Path, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gomod, "COMPILE_BYTES", 10**18)

    with pytest.raises(StorageError, match="GB are free"):
        fetch(tmp_path, modules)

    assert fake_go.commands == []


@pytest.mark.processes("setpriv", "sh")
def test_a_build_that_fills_the_disk_says_so_whatever_else_its_log_has(
    tmp_path: Path, modules: Path, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package's name looks like a fault of the network.
    says = "echo client-go/util/certificate; echo write x: no space left on device; exit 1"

    def run(command: Command, **options: Any) -> None:
        run_go(replace(command, argv=["sh", "-c", says]), **options)

    monkeypatch.setattr(gomod, "run_go", run)

    with pytest.raises(StorageError, match="No space left on device"):
        fetch(tmp_path, modules)


@pytest.mark.parametrize(
    "change",
    [
        {"tags": ["other"]},
        {"ldflags": []},
        {"packages": {"tool": "example.com/other"}},
        {"mod_sha256": "1" * 64},
        {"cgo": True},
    ],
    ids=lambda c: next(iter(c)),
)
def test_whatever_goes_into_a_build_is_in_its_key(
    tmp_path: Path, modules: Path, change: dict[str, Any]
) -> None:
    before = provider(modules).key(request_for(tmp_path, modules))

    assert provider(modules).key(request_for(tmp_path, modules, **change)) != before


def test_a_record_or_a_note_does_not_change_the_key(tmp_path: Path, modules: Path) -> None:
    before = provider(modules).key(request_for(tmp_path, modules))

    more = {"built": on_record("0" * 64), "note": "n"}
    assert provider(modules).key(request_for(tmp_path, modules, **more)) == before


def test_records_are_those_of_the_compilers(modules: Path) -> None:
    lock = lock_of({})
    go, zig = lock.toolchains.go.version, lock.toolchains.zig.version
    plain, with_c = build(modules, built=on_record("0" * 64)), build(modules, cgo=True)

    assert toolchain_name(plain, lock) == f"go{go}"
    assert toolchain_name(with_c, lock) == f"go{go}+zig{zig}"
    assert recorded(plain, lock, "amd64") == {"tool": "0" * 64}
    assert recorded(plain, lock, "arm64") is None


@pytest.mark.parametrize(
    ("package", "name"),
    [("k8s.io/kubernetes/cmd/kubelet", "kubelet"), ("go.etcd.io/etcd/server/v3", "server"),
     ("github.com/flannel-io/flannel", "flannel")],
)  # fmt: skip
def test_the_file_that_go_makes_is_named(package: str, name: str) -> None:
    assert executable_name(package) == name


def test_the_build_cache_goes_only_when_it_is_large(
    tmp_path: Path, modules: Path, fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned: list[Path] = []
    monkeypatch.setattr(Go, "prune", lambda self: pruned.append(self.build_cache_dir))
    request = request_for(tmp_path, modules)
    go_mod = provider(modules)
    go_mod.prune()  # nothing was built
    with request.context.store.workspace() as directory:
        go_mod.fetch(request, directory)
    go_mod.prune()
    assert pruned == []

    monkeypatch.setattr(gomod, "_LARGE_CACHE_BYTES", -1)
    with locked(tmp_path / "cache/kubekiln/go/lock"):
        go_mod.prune()  # another compiles with it: no waiting for that
    assert pruned == []
    go_mod.prune()
    assert pruned == [tmp_path / "cache" / "kubekiln" / "go" / "build"]
