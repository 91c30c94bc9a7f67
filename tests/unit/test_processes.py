# SPDX-License-Identifier: Apache-2.0
"""Is it said when a machine's processes can't be ended, and is one that is gone no error?"""

from __future__ import annotations

import signal

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.process import Command, Result
from pipeline.targets import processes


@pytest.mark.parametrize(
    ("stderr", "is_refused"),
    [
        (b"", False),
        (b"kill: (4711): No such process\n", False),
        (b"sudo: a password is required\n", True),
    ],
)
def test_who_may_not_end_a_machine_is_told_at_once_what_to_do(
    monkeypatch: pytest.MonkeyPatch, stderr: bytes, is_refused: bool
) -> None:
    sent: list[str] = []

    def run(command: Command, *, check: bool) -> Result:
        sent.append(str(command))
        return Result(1 if stderr else 0, b"", stderr)

    monkeypatch.setattr(processes, "run", run)

    if is_refused:
        with pytest.raises(KubekilnError, match="a password is required") as caught:
            processes.send([4711], signal.SIGKILL, as_root=True)
        assert "sudo -v" in str(caught.value)
    else:
        processes.send([4711], signal.SIGKILL, as_root=True)
    assert sent[0].endswith("kill -KILL 4711")
