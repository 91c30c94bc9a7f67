# SPDX-License-Identifier: Apache-2.0
"""Does a rendering that is interrupted, anywhere, or runs twice at once, leave the state whole?"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudinit import render as rendering
from cloudinit.state import State
from cloudinit.statefile import decode
from kubekiln import files
from kubekiln.errors import StorageError
from tests.support.clusters import make_cluster, make_project, make_state, render, snapshot

ROOT = Path(__file__).resolve().parents[2]
MASTER = {"name": "lab-1", "role": "master", "address": "10.80.0.11"}
WORKER = {"name": "lab-2", "role": "worker", "address": "10.80.0.12"}
# What a rendering does to a disk, as the interpreter itself reports it.
WRITES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree"}


def worker_payload(root: Path) -> dict[str, bytes]:
    return snapshot(root / "build" / "nodes" / "lab" / "lab-2")


def without_state(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name != "state/lab/state"}


@pytest.fixture
def rendered(tmp_path: Path) -> dict[str, bytes]:
    render(tmp_path, nodes=[MASTER, WORKER])
    return snapshot(tmp_path)


class Killer:
    """Counts what is written below `root`; kills this process just before number `at`."""

    def __init__(self, root: Path, at: int) -> None:
        self.root, self.at, self.seen = str(root), at, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in WRITES or not str(arguments[0]).startswith(self.root):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def render_until_killed(root: Path, at: int, **changes: Any) -> bool:
    """Render in a process that is killed (-9) before its write number `at`; tell if it was."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.addaudithook(Killer(root, at))
        render(root, **changes)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def every_kill(root: Path, **changes: Any) -> Iterator[int]:
    """Kill renderings at their first write, their second, … until one is through."""
    at = 1
    while render_until_killed(root, at, **changes):
        yield at
        at += 1


@pytest.mark.parametrize("at", [*range(1, 60, 6)])
def test_a_first_rendering_killed_at_any_write_begins_anew(tmp_path: Path, at: int) -> None:
    make_project(tmp_path)
    render_until_killed(tmp_path, at)

    again = render(tmp_path)

    assert list((tmp_path / "build" / "nodes").iterdir()) == [again.nodes[0].directory.parent]
    first = snapshot(tmp_path)
    render(tmp_path)
    assert snapshot(tmp_path) == first


def test_a_rendering_killed_at_any_write_leaves_the_old_state_or_the_new_one_whole(
    tmp_path: Path, rendered: dict[str, bytes]
) -> None:
    third = {"name": "lab-3", "role": "worker", "address": "10.80.0.13"}
    path = tmp_path / "state" / "lab" / "state"
    seen = []

    for _ in every_kill(tmp_path, nodes=[MASTER, WORKER, third]):
        document = decode(path.read_bytes(), path=path, cluster="lab")
        seen.append("lab-3/kubelet" in document.leaves)
        if not seen[-1]:
            assert path.read_bytes() == rendered["state/lab/state"]
        # The old configuration still gives what it gave, to the byte.
        render(tmp_path, nodes=[MASTER, WORKER])
        assert without_state(snapshot(tmp_path)) == without_state(rendered)
        path.write_bytes(rendered["state/lab/state"])

    assert seen.count(False) > 20 and seen.count(True) > 4
    assert (tmp_path / "build" / "nodes" / "lab" / "lab-3" / "user-data").exists()


class FailingWrites:
    """Lets write number `at` fail as a full disk does."""

    def __init__(self, at: int) -> None:
        self.at, self.done = at, 0

    def replace(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def write(*args: Any, **more: Any) -> Any:
            self.done += 1
            if self.done == self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **more)

        patch.setattr(owner, name, write)


def test_a_disk_that_is_full_at_any_write_leaves_the_old_state(
    tmp_path: Path, rendered: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state" / "lab" / "state"
    changed = {"api": {"extra_sans": ["api.example.org"]}, "nodes": [MASTER, WORKER]}
    failed = 0
    for at in range(1, 100):
        failing = FailingWrites(at)
        with monkeypatch.context() as patch:
            failing.replace(patch, os, "fsync")
            failing.replace(patch, os, "fdopen")
            failing.replace(patch, Path, "rename")
            try:
                render(tmp_path, **changed)
            except StorageError as error:
                failed += 1
                assert "No space left on device" in str(error)
        if failing.done < at:
            break
        if path.read_bytes() == rendered["state/lab/state"]:
            assert snapshot(tmp_path) == rendered
        path.write_bytes(rendered["state/lab/state"])
        render(tmp_path, nodes=[MASTER, WORKER])
        assert snapshot(tmp_path) == rendered

    assert failed > 10
    assert snapshot(tmp_path)["state/lab/state"] != rendered["state/lab/state"]
    assert (
        worker_payload(tmp_path).items()
        <= {k.removeprefix("build/nodes/lab/lab-2/"): v for k, v in rendered.items()}.items()
    )


PROGRAM = """
import sys
from pathlib import Path
from tests.support.clusters import render
made = render(Path(sys.argv[1]))
print("new" if made.created_state else "as before")
"""


def start_rendering(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.processes("python")
def test_a_second_process_says_that_it_waits_and_then_renders(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    files.make_dir(project.state_dir, mode=0o700)
    with files.locked(project.state_dir / ".lab.lock"):
        process = start_rendering(tmp_path)
        assert process.stderr is not None
        assert "another kubekiln renders cluster lab" in process.stderr.readline()
        assert not (project.state_dir / "lab").exists()

    out, _ = process.communicate(timeout=60)

    assert (process.returncode, out) == (0, "new\n")


@pytest.mark.processes("python")
def test_two_processes_that_begin_a_cluster_at_once_make_one_state(tmp_path: Path) -> None:
    make_project(tmp_path)

    both = [start_rendering(tmp_path) for _ in range(2)]
    said = sorted(process.communicate(timeout=60)[0] for process in both)

    assert said == ["as before\n", "new\n"]
    state = make_state(tmp_path)
    certificate = state.authority("kubernetes").certificate.decode()
    user_data = (tmp_path / "build" / "nodes" / "lab" / "lab-1" / "user-data").read_text()
    assert certificate.split("\n")[2] in user_data


def test_the_lock_is_held_until_the_nodes_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path)
    seen = []

    def publish(*paths: Path, keep: set[str]) -> None:
        with (
            pytest.raises(StorageError, match="another kubekiln"),
            files.locked(project.state_dir / ".lab.lock", blocking=False),
        ):
            pass
        seen.append(State.open(
            tmp_path / "state" / "lab", cluster="lab", config=make_cluster().pki,
            now=rendering.datetime.now(rendering.UTC),
        ).is_new)  # fmt: skip
        real(*paths, keep=keep)

    real = rendering.publish
    monkeypatch.setattr(rendering, "publish", publish)
    render(tmp_path)

    assert seen == [False], "the state is written before the nodes appear"
