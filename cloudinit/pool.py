# SPDX-License-Identifier: Apache-2.0
"""How are thousands of nodes rendered by several processes, with no payload kept in memory?

The processes are forks of this one: they inherit configuration and secrets, which so need not go
through a pipe, and give back only sizes and the certificates that they issued. No program is
started, which would be the business of kubekiln/process.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import datetime

from cloudinit.state import NewLeaf
from kubekiln.errors import KubekilnError

_CHUNK = 25
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Size:
    """How large one node's user-data is."""

    plain: int
    gzip: int


@dataclass(frozen=True)
class Chunk:
    """What rendering some consecutive nodes gave; their payloads are on disk."""

    sizes: tuple[Size, ...]
    new_leaves: list[NewLeaf] = field(repr=False)
    first_end: tuple[datetime, str]


RenderChunk = Callable[[range], Chunk]


def default_workers(nodes: int) -> int:
    """Take every CPU that we may use; one process where more would idle."""
    return min(len(os.sched_getaffinity(0)), -(-nodes // _CHUNK))


@contextlib.contextmanager
def rendering(nodes: int, render: RenderChunk, *, workers: int) -> Iterator[Iterator[Chunk]]:
    """Have every index below `nodes` rendered; yields the results in order, as they come.

    Starts the processes at once: call it before anything starts a thread. They end with the block,
    however it ends.
    """
    ranges = [range(at, min(at + _CHUNK, nodes)) for at in range(0, nodes, _CHUNK)]
    if workers <= 1:
        yield (render(indexes) for indexes in ranges)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("fork"),
        initializer=_begin,
        initargs=(render, os.getpid()),
    )
    try:
        yield _results([pool.submit(_render, indexes) for indexes in ranges])
    except BrokenProcessPool as error:
        raise KubekilnError(
            f"one of the {workers} processes that render nodes was killed",
            hint="was there too little memory? --jobs 1 takes the least",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(futures: list[Future[Chunk]]) -> Iterator[Chunk]:
    futures.reverse()
    while futures:
        yield futures.pop().result()


class _Worker:
    """What a forked process inherited: an executor has no other way to hand a secret over."""

    render: RenderChunk


def _begin(render: RenderChunk, parent: int) -> None:
    # What a terminal sends reaches the whole group of processes: the parent decides what it means.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A parent that is killed can't end us, and its lock would be held for as long as we live.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _Worker.render = staticmethod(render)


def _render(indexes: range) -> Chunk:
    return _Worker.render(indexes)
