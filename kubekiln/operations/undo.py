# SPDX-License-Identifier: Apache-2.0
"""What becomes of machines that were booted if they don't come up?"""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence

from kubekiln.errors import KubekilnError, Problem, StorageError
from kubekiln.files import make_dir
from kubekiln.paths import Project
from kubekiln.progress import say
from pipeline.targets.machine import Machine
from pipeline.targets.protocol import Target


@contextlib.contextmanager
def undone_unless_up(
    target: Target, machines: Sequence[Machine], *, project: Project, keep: bool
) -> Iterator[list[Machine]]:
    """Remove what was booted if the block doesn't end well; a machine that had a disk keeps it.

    The block adds to the list that it is given what it boots.
    """
    had_disk = {m.name for m in machines if target.status(m).state != "absent"}
    booted: list[Machine] = []
    try:
        yield booted
    except BaseException as error:
        if keep and isinstance(error, KubekilnError):
            say("the machines are kept as they are (--keep); `kubekiln down` removes them")
            raise
        left: list[Problem] = []
        with uninterrupted():
            for machine in reversed(booted):
                keep_console(machine, project)
                undo = target.stop if machine.name in had_disk else target.destroy
                left += _problems_of(undo, machine)
        if left:
            told = error.problems if isinstance(error, KubekilnError) else ()
            raise KubekilnError.of([*told, *left]) from error
        raise


def _problems_of(undo: Callable[[Machine], None], machine: Machine) -> list[Problem]:
    """Undo one machine; that it can't be is said when the others were."""
    try:
        undo(machine)
    except KubekilnError as error:
        return list(error.problems)
    except OSError as error:
        return [Problem(f"{machine.name} is not removed: {error}", str(machine.run_dir))]
    return []


def keep_console(machine: Machine, project: Project) -> None:
    """Save the console of a machine that is about to be removed, if the disk takes it."""
    with contextlib.suppress(OSError, StorageError):
        if machine.console_log.exists() and machine.console_log.stat().st_size:
            logs = make_dir(project.logs_dir)
            kept = logs / f"{machine.cluster}-{machine.name}-console.log"
            shutil.copyfile(machine.console_log, kept)
            say(f"the console of {machine.name} is kept in {kept}")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a second Ctrl-C, or the end of the terminal, not stop what cleans up after the first."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
