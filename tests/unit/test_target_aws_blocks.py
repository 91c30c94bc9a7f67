# SPDX-License-Identifier: Apache-2.0
"""Does an upload to AWS know which blocks are there, and of which order their checksum is?"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from pipeline.targets.aws_blocks import UploadJournal, linear_checksum, side_by_side


def test_the_checksum_of_all_is_that_of_the_blocks_in_their_order() -> None:
    sums = {index: hashlib.sha256(b"%d" % index).digest() for index in (7, 0, 300)}

    joined = sums[0] + sums[7] + sums[300]

    assert base64.b64decode(linear_checksum(sums)) == hashlib.sha256(joined).digest()


def test_a_journal_counts_only_what_is_in_its_snapshot(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    journal = UploadJournal.load(image, "s1", "eu")
    token = journal.begin()
    journal.started("snap-1")
    journal.put(3)
    with journal.path.open("a") as cut_off:
        cut_off.write('\n{"block": 4')

    again = UploadJournal.load(image, "s1", "eu")
    assert (again.token, again.snapshot, again.done) == (token, "snap-1", {3})
    again.started("snap-2")
    assert UploadJournal.load(image, "s1", "eu").done == set()

    for other in (UploadJournal.load(image, "s2", "eu"), UploadJournal.load(image, "s1", "us")):
        assert (other.token, other.snapshot, other.done) == ("", "", set())


def test_the_first_failure_ends_what_is_done_side_by_side() -> None:
    done: list[int] = []

    def act(index: int) -> int:
        if index == 3:
            raise KubekilnError("no")
        done.append(index)
        return index

    with pytest.raises(KubekilnError):
        side_by_side(act, range(1000), 1)

    assert len(done) < 1000
    assert side_by_side(lambda index: index, [5, 1], 4) == [5, 1]
