# SPDX-License-Identifier: Apache-2.0
"""Is what the state holds renewed in time, by a clock that may be wrong, and not sooner?"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from cloudinit.pki import LeafSpec, validity
from cloudinit.state import StateError
from tests.support.clusters import NOW, make_state, render, snapshot

SPEC = LeafSpec("lab-1/use", "kubernetes", "someone", ("client",))


@pytest.mark.parametrize(("days", "renewed"), [(240, False), (250, True), (400, True)])
def test_a_leaf_is_renewed_in_the_last_third_of_its_life(
    tmp_path: Path, days: int, renewed: bool
) -> None:
    first = make_state(tmp_path)
    pair = first.leaf(SPEC)
    first.commit()

    later = make_state(tmp_path, now=NOW + timedelta(days=days)).leaf(SPEC)

    assert (later != pair) is renewed


@pytest.mark.parametrize(
    ("ahead", "renewed"),
    [(timedelta(minutes=50), False), (timedelta(minutes=70), True), (timedelta(days=365), True)],
    ids=str,
)
def test_a_leaf_that_was_issued_by_a_clock_ahead_is_issued_anew(
    tmp_path: Path, ahead: timedelta, renewed: bool
) -> None:
    first = make_state(tmp_path)
    first.complete()
    first.commit()
    wrong = make_state(tmp_path, now=NOW + ahead)
    pair = wrong.leaf(SPEC)
    wrong.commit()

    right = make_state(tmp_path).leaf(SPEC)

    assert (right != pair) is renewed
    assert validity(right.certificate)[0] <= NOW


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(-3651, "ended on 2026-11-2.*it is 2026-11-23 06:00"), (1, "begins on 2026-11-24 05:00 UTC")],
    ids=["ended", "not begun"],
)
def test_an_authority_of_another_time_is_refused_by_its_name(
    tmp_path: Path, ahead: int, said: str
) -> None:
    render(tmp_path, now=NOW + timedelta(days=ahead))
    before = snapshot(tmp_path)

    with pytest.raises(StateError, match=f"authority kubernetes of cluster lab {said}") as error:
        render(tmp_path)

    assert "correct the clock" in str(error.value)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("days", "told"), [(3200, 0), (3300, 3)])
def test_rendering_says_that_an_authority_ends_within_a_leafs_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int, told: int
) -> None:
    render(tmp_path)

    render(tmp_path, now=NOW + timedelta(days=days))

    assert capsys.readouterr().err.count("of cluster lab ends on 2036-11-20") == told
