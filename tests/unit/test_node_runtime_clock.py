# SPDX-License-Identifier: Apache-2.0
"""Does a node with a wrong clock help itself, or say so?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import sample_manifest

from kubekiln_node.clock import Clock, check_clock  # isort: skip
from kubekiln_node.manifest import read_manifest  # isort: skip

FROM = 1_790_000_000
UNTIL = 1_820_000_000


class FakeClock(Clock):
    def __init__(self, now: int, *, own: bool = True, refuses: bool = False) -> None:
        self.seconds = now
        self._own = own
        self._refuses = refuses

    def now(self) -> int:
        return self.seconds

    def may_set(self) -> bool:
        return self._own

    def set(self, seconds: int) -> None:
        if self._refuses:
            raise PermissionError(1, "Operation not permitted")
        self.seconds = seconds


def check(tmp_path: Path, clock: Clock, **changes: Any) -> list[str]:
    path = tmp_path / "node.json"
    validity = {"valid_from": FROM, "valid_until": UNTIL, **changes}
    path.write_text(json.dumps(sample_manifest(**validity)))
    said: list[str] = []
    check_clock(read_manifest(str(path)), clock=clock, tell=said.append)
    return said


@pytest.mark.parametrize("now", [FROM, FROM + 3600, UNTIL])
def test_a_clock_within_the_validity_is_left_alone(tmp_path: Path, now: int) -> None:
    clock = FakeClock(now)

    assert check(tmp_path, clock) == []
    assert clock.seconds == now


@pytest.mark.parametrize("now", [0, FROM - 3600])
def test_a_clock_that_is_behind_is_put_forward(tmp_path: Path, now: int) -> None:
    clock = FakeClock(now)

    said = check(tmp_path, clock)

    assert clock.seconds == FROM
    assert said[0].startswith("KUBEKILN clock=advanced from=")
    assert said[0].endswith(" to=2026-09-21T14:13:20Z")


def test_a_container_does_not_set_its_hosts_clock(tmp_path: Path) -> None:
    clock = FakeClock(0, own=False)

    assert check(tmp_path, clock)[0].startswith("KUBEKILN clock=behind from=1970-01-01T00:00:00Z")
    assert clock.seconds == 0


def test_a_clock_that_can_not_be_set_is_said(tmp_path: Path) -> None:
    said = check(tmp_path, FakeClock(0, refuses=True))

    assert "error='Operation not permitted'" in said[0]


def test_expired_certificates_are_said_and_nothing_is_set(tmp_path: Path) -> None:
    clock = FakeClock(UNTIL + 1)

    assert check(tmp_path, clock)[0].startswith("KUBEKILN certificates=expired until=")
    assert clock.seconds == UNTIL + 1


def test_a_manifest_without_times_asks_for_nothing(tmp_path: Path) -> None:
    assert check(tmp_path, FakeClock(0), valid_from=0, valid_until=0) == []
