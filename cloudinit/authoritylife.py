# SPDX-License-Identifier: Apache-2.0
"""May an authority sign now, by this host's clock, and will it for as long as is wanted?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cloudinit import pki
from cloudinit.statefile import StateError

_MOMENT = "%Y-%m-%d %H:%M UTC"


def refuse_untimely(certificate: bytes, *, title: str, where: Path, now: datetime) -> None:
    """Raise StateError if an authority has ended, or was made by a clock that was ahead."""
    start, end = pki.validity(certificate)
    if start <= now <= end:
        return
    when = f"ended on {end:{_MOMENT}}" if now > end else f"begins on {start:{_MOMENT}}"
    raise StateError(
        f"{title} {when}: by this host's clock it is {now:{_MOMENT}}",
        where=str(where),
        hint="correct the clock if it is wrong; else a new cluster is needed: move the state away, "
        "and render with --new-cluster",
    )


def ending(certificate: bytes, *, title: str, leaf_days: int, now: datetime) -> Iterator[str]:
    """Say so if an authority ends before a certificate that it signs now could."""
    start, end = pki.validity(certificate)
    left = end - now
    # Who lets both live equally long needn't hear it from the first day.
    if left < min(timedelta(days=leaf_days), (end - start) / 3):
        yield (
            f"{title} ends on {end:%Y-%m-%d}, in {left.days} days, and every certificate with it: "
            "a new cluster is needed then"
        )
