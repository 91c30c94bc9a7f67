# SPDX-License-Identifier: Apache-2.0
"""Does a bake survive being killed in each stage, give a good image, and cost nothing twice?"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kubekiln.errors import EXIT_USAGE
from kubekiln.paths import cache_dir
from kubekiln.process import Command, Result, run, spawn
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
# Without any cache this includes the compilation of every component, beside other work.
BAKE_S = 5400.0
pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.network, pytest.mark.alone]

SETTING = "usr/lib/sysctl.d/60-kubekiln.conf"
# containerd notes when it got an image (docs/images.md).
HOLD_A_TIME = {
    "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db",
    "var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/metadata.db",
}


@dataclass(frozen=True)
class Kiln:
    """A project and a stage cache of its own; the store of components is that of this host."""

    root: Path
    cache: Path
    good: set[str] = field(default_factory=set)
    """The stages of the bake of unchanged inputs."""

    def command(self, *arguments: str) -> Command:
        env = {"PYTHONPATH": str(ROOT), "CI": "true", "XDG_CACHE_HOME": str(self.cache)}
        argv = [sys.executable, "-m", "kubekiln", "image", *arguments]
        return Command(argv, cwd=self.root, env=env, timeout_s=BAKE_S)

    def image(self, *arguments: str, check: bool = True) -> Result:
        return run(self.command(*arguments), check=check)

    def kill_bake_in(self, stage: str, how: signal.Signals) -> None:
        """Start a bake, and kill it as soon as a stage has something to show."""
        self.log(stage).unlink(missing_ok=True)
        with self.said(stage).open("wb") as out:
            bake = spawn(self.command("bake"), stdout=out)
        until(
            lambda: bake.poll() is not None or self.is_working(stage),
            what=f"the bake reaches {stage}", timeout_s=BAKE_S,
        )  # fmt: skip
        assert bake.poll() is None, self.said(stage).read_text()
        bake.send_signal(how)
        bake.wait()

    def log(self, stage: str) -> Path:
        return self.root / f"build/logs/bake-debian-13/{stage}.log"

    def said(self, stage: str) -> Path:
        return self.cache / f"killed-in-{stage}.log"

    def is_working(self, stage: str) -> bool:
        """Tell whether a stage has something to show: it is in the middle of its work."""
        if stage == "inspect":
            return "Inspecting the finished disk" in self.said(stage).read_text()
        if stage == "disk":
            return any(self.cache.glob("kubekiln/stages/work/disk-*/disk.raw"))
        log = self.log(stage)
        return log.is_file() and log.stat().st_size > 0

    def processes(self) -> list[str]:
        """Processes that have this kiln in their command line."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.cache) in line and str(os.getpid()) != path.parent.name:
                found.append(line)
        return found

    def mounts_and_loops(self) -> list[str]:
        """Mounts and loop devices of this kiln; those of others come and go."""
        places = Path("/proc/self/mountinfo").read_text().splitlines()
        places += [p.read_text() for p in Path("/sys/block").glob("loop*/loop/backing_file")]
        return [place for place in places if str(self.root) in place]

    def give_stages_to(self, stages_dir: Path) -> None:
        """Let the boots that follow find what was baked here of this checkout's inputs."""
        stages_dir.mkdir(parents=True, exist_ok=True)
        for name in self.good:
            half = stages_dir.with_name(f"given-{os.getpid()}")
            if not (stages_dir / name).exists():
                shutil.copytree(self.cache / "kubekiln/stages" / name, half)
                half.rename(stages_dir / name)

    def manifest(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(
            (self.root / "build/images/debian-13.json").read_text()
        )
        return found


@pytest.fixture(scope="module")
def kiln(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kiln]:
    root = tmp_path_factory.mktemp("kiln")
    for name in ("configs", "elements"):
        shutil.copytree(ROOT / name, root / name, symlinks=True)
    cache = root / "cache"
    (cache / "kubekiln").mkdir(parents=True)
    for shared in ("store", "toolchains"):
        (cache_dir() / shared).mkdir(parents=True, exist_ok=True)
        (cache / "kubekiln" / shared).symlink_to(cache_dir() / shared)
    kiln = Kiln(root, cache)
    yield kiln
    kiln.give_stages_to(cache_dir() / "stages")
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("stage", "how"),
    [("base", signal.SIGKILL), ("base", signal.SIGINT), ("rootfs", signal.SIGKILL),
     ("disk", signal.SIGKILL), ("disk", signal.SIGTERM), ("inspect", signal.SIGKILL)],
)  # fmt: skip
def test_a_killed_bake_leaves_nothing_behind(kiln: Kiln, stage: str, how: signal.Signals) -> None:
    kiln.kill_bake_in(stage, how)

    until(lambda: not kiln.processes(), what="every process of the bake is gone", timeout_s=30)
    assert kiln.mounts_and_loops() == []
    assert not list((kiln.root / "build").glob("images/*"))


def test_the_next_bake_works_and_the_image_is_as_it_must_be(kiln: Kiln) -> None:
    kiln.image("bake")

    told = kiln.image("inspect").text
    assert told.count("ok ") >= 14
    stages = kiln.cache / "kubekiln/stages"
    assert [p.name for p in (stages / "work").iterdir()] == [".lock"]
    kiln.good.update(path.name for path in stages.glob("*-*/"))


def test_a_bake_with_nothing_changed_makes_nothing(kiln: Kiln) -> None:
    digest = kiln.manifest()["digest"]

    told = kiln.image("bake").text

    assert "reused base, components, disk, image, rootfs" in told
    assert kiln.manifest()["digest"] == digest


def test_a_full_disk_is_said_to_be_full_and_nothing_is_published(kiln: Kiln) -> None:
    # Another name is another disk: of a root file system that is there, so mke2fs is what fails.
    configs = kiln.root / "configs/images"
    shutil.copy(configs / "debian-13.yaml", configs / "full.yaml")
    stages = kiln.cache / "kubekiln/stages"
    small = 'mount -t tmpfs -o size=512m none "$0" && exec "$@"'
    bake = kiln.command("bake", "full")
    argv = ["unshare", "--mount", "sh", "-c", small, stages / "work", *bake.argv]

    result = run(replace(bake, argv=argv), check=False)

    told = result.stderr.decode()
    assert result.returncode == EXIT_USAGE, told
    assert f"error: cannot write {stages}/work/disk-" in told
    assert "No space left on device (0." in told and "populate-root.sh" in told
    assert "hint: free some disk space, or point XDG_CACHE_HOME at a larger disk" in told
    assert not list((kiln.root / "build/images").glob("full*"))
    assert [p.name for p in (stages / "work").iterdir()] == [".lock"]


def test_a_changed_element_leaves_the_distribution_as_it_is(kiln: Kiln) -> None:
    digest = kiln.manifest()["digest"]
    setting = kiln.root / "elements/k8s-base/static" / SETTING
    setting.write_text(setting.read_text() + "vm.max_map_count = 262144\n")

    told = kiln.image("bake").text

    assert "reused base, components\n" in told
    assert kiln.manifest()["digest"] != digest


def test_two_bakes_of_one_base_give_the_same_files(kiln: Kiln) -> None:
    # Those before and after the change, made one after the other.
    trees = kiln.cache.glob("kubekiln/stages/rootfs-*/root.tar")
    first, second = sorted(trees, key=lambda path: path.stat().st_mtime)

    assert differing(first, second) == {SETTING} | HOLD_A_TIME


def differing(first: Path, second: Path) -> set[str]:
    """Name what isn't the same in two trees; of directories not their times."""
    one, other = entries(first), entries(second)
    return {name for name in one | other if one.get(name) != other.get(name)}


def entries(root_tar: Path) -> dict[str, tuple[object, ...]]:
    """Describe each file of a tree: kind, owner, mode, content or where it leads, time."""
    found = {}
    with tarfile.open(root_tar) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            found[member.name.removeprefix("./")] = (
                member.type, member.mode, member.uid, member.gid, member.linkname,
                member.mtime if member.isreg() or member.issym() else None,
                hashlib.file_digest(content, "sha256").digest() if content else None,
                {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr")},
            )  # fmt: skip
    return found


def test_a_damaged_image_is_found(kiln: Kiln, tmp_path: Path) -> None:
    manifest = kiln.manifest()
    stem = kiln.root / f"build/images/debian-13-{str(manifest['digest'])[:12]}"
    bad = tmp_path / "bad.json"
    shutil.copy(f"{stem}.qcow2", tmp_path / "bad.qcow2")
    with (tmp_path / "bad.qcow2").open("r+b") as disk:
        disk.seek(64 << 20)
        disk.write(b"\xff" * 4096)
    bad.write_text(
        json.dumps({**manifest, "qcow2": {**_dict(manifest["qcow2"]), "path": "bad.qcow2"}})
    )

    result = kiln.image("inspect", str(bad), check=False)

    assert result.returncode == 1
    assert "sha256 is not the one of the manifest" in result.text


def _dict(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value


def test_a_bake_that_cannot_work_says_so_and_writes_nothing(kiln: Kiln) -> None:
    config = (kiln.root / "configs/images/debian-13.yaml").read_text()
    (kiln.root / "configs/images/bad.yaml").write_text(
        config.replace("- k8s-seal", "- k8s-typo").replace('etcd: "', 'etcd: "0.')
    )

    result = kiln.image("bake", "bad", check=False)

    assert result.returncode == EXIT_USAGE
    told = result.stderr.decode()
    assert "'k8s-typo'" in told
    assert "the lock has no etcd 0." in told
    assert not list((kiln.root / "build/images").glob("bad*"))
