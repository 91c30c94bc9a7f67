# SPDX-License-Identifier: Apache-2.0
"""Do several processes render what one does, and do they end when they should?"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
import weakref
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from cloudinit import pool
from cloudinit import render as rendering
from cloudinit.model import Cluster
from cloudinit.pool import Chunk, Size
from cloudinit.state import State
from kubekiln.channel import CHANNELS, Channel
from kubekiln.errors import ConfigError, KubekilnError
from tests.support.clusters import NOW, make_cluster, make_project, make_state, snapshot


def cluster_of(workers: int, **changes: Any) -> Cluster:
    nodes = [{"name": "m-1", "role": "master", "address": "10.80.0.10"}]
    nodes += [
        {"name": f"w-{i:03}", "role": "worker", "address": str(IPv4Address("10.80.0.20") + i)}
        for i in range(workers)
    ]
    return make_cluster(nodes=nodes, **changes)


def render(root: Path, cluster: Cluster, workers: int) -> rendering.RenderedCluster:
    return rendering.render_cluster(cluster, project=make_project(root), now=NOW, workers=workers)


def chunk(indexes: range) -> Chunk:
    return Chunk(tuple(Size(i, i) for i in indexes), [], (NOW, "x"))


def test_two_processes_give_the_bytes_of_one(tmp_path: Path) -> None:
    cluster = cluster_of(60)
    one, two = tmp_path / "one", tmp_path / "two"
    made = render(one, cluster, 1)
    shutil.copytree(one / "state", two / "state")

    again = render(two, cluster, 2)

    first = snapshot(one / "build")
    assert len(first) == 61 * 4
    assert snapshot(two / "build") == first
    assert [(n.name, n.size, n.size_gzip) for n in again.nodes] == [
        (n.name, n.size, n.size_gzip) for n in made.nodes
    ]
    assert (again.days_left, again.first_to_expire) == (made.days_left, made.first_to_expire)


def test_what_two_processes_issue_is_kept(tmp_path: Path) -> None:
    cluster = cluster_of(60)
    render(tmp_path, cluster, 2)
    first = snapshot(tmp_path)

    render(tmp_path, cluster, 1)

    assert snapshot(tmp_path) == first


def test_only_nodes_that_changed_are_written(tmp_path: Path) -> None:
    made = render(tmp_path, cluster_of(30), 1)
    inodes = {node.name: node.directory.stat().st_ino for node in made.nodes}
    made.nodes[3].user_data.chmod(0o644)
    made.nodes[4].meta_data.unlink()
    made.nodes[5].user_data.write_bytes(made.nodes[5].user_data.read_bytes().lower())

    render(tmp_path, cluster_of(30), 2)

    written = [n.name for n in made.nodes if n.directory.stat().st_ino != inodes[n.name]]
    assert written == [made.nodes[i].name for i in (3, 4, 5)]
    assert made.nodes[3].user_data.stat().st_mode & 0o777 == 0o600
    assert made.nodes[4].meta_data.exists()


def test_every_node_trusts_the_one_authority(tmp_path: Path) -> None:
    made = render(tmp_path, cluster_of(60), 3)

    certificate = make_state(tmp_path).authority("kubernetes").certificate.decode().split("\n")[1]
    assert len(made.nodes) == 61
    assert all(certificate in node.user_data.read_text() for node in made.nodes)


def test_a_secret_that_nodes_share_is_never_made_by_one_of_many(tmp_path: Path) -> None:
    state = make_state(tmp_path)
    state.complete()

    with pytest.raises(AssertionError, match="another is shared by nodes"):
        state.authority("another")


def test_a_node_that_does_not_fit_leaves_nothing_and_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Channel("Amazon EC2", ("Ec2",), 10_000, file="user-data.gz")
    monkeypatch.setitem(CHANNELS, "ec2", small)  # type: ignore[index]

    with pytest.raises(ConfigError, match="over the 10,000 B of Amazon EC2") as error:
        render(tmp_path, cluster_of(60, datasource="ec2"), 2)

    assert error.value.problems[0].hint is not None
    assert list((tmp_path / "build" / "nodes").iterdir()) == []
    assert not (tmp_path / "state" / "lab").exists()
    assert multiprocessing.active_children() == []


def test_an_interrupt_ends_the_processes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> Size:
        time.sleep(0.05)
        return Size(1, 1)

    def interrupt() -> None:
        # Its own thread is the last that a pool starts.
        while "_ExecutorManagerThread" not in {type(t).__name__ for t in threading.enumerate()}:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(rendering._Job, "_render_one", slow)
    monkeypatch.setattr(State, "first_end", (NOW, "x"))
    threading.Timer(0.3, interrupt).start()

    with pytest.raises(KeyboardInterrupt):
        render(tmp_path, cluster_of(200), 2)

    assert multiprocessing.active_children() == []
    assert list((tmp_path / "build" / "nodes").iterdir()) == []
    assert not (tmp_path / "state" / "lab").exists()


def test_a_process_that_is_killed_is_an_error_with_a_hint() -> None:
    def die(_: range) -> Chunk:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with (
        pytest.raises(KubekilnError, match="was killed") as error,
        pool.rendering(100, die, workers=2) as chunks,
    ):
        list(chunks)

    assert "--jobs 1" in str(error.value)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("nodes", [1, 24, 25, 26, 120])
def test_results_come_in_the_order_of_the_nodes(nodes: int, workers: int) -> None:
    with pool.rendering(nodes, chunk, workers=workers) as chunks:
        sizes = [size.plain for found in chunks for size in found.sizes]

    assert sizes == list(range(nodes))


def test_the_processes_of_a_parent_that_is_killed_end_too() -> None:
    reader, writer = os.pipe()
    parent = os.fork()
    if parent == 0:
        os.close(reader)
        with pool.rendering(100, lambda _: time.sleep(60) or chunk(_), workers=2) as chunks:
            os.write(writer, b".")
            list(chunks)
    os.close(writer)
    assert os.read(reader, 1) == b"."

    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)

    # End of file: nobody has the other end any more.
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_no_payload_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[rendering.Payload]] = []
    most = 0
    real = rendering.render_payload

    def render_payload(*args: Any) -> rendering.Payload:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in made))
        payload = real(*args)
        made.append(weakref.ref(payload))
        return payload

    monkeypatch.setattr(rendering, "render_payload", render_payload)
    render(tmp_path, cluster_of(60), 1)

    assert len(made) == 61 and most <= 1
