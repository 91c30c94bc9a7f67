# SPDX-License-Identifier: Apache-2.0
"""Does a download end with the pinned bytes or with nothing, whatever the server does?"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubekiln.errors import IntegrityError, StorageError
from pipeline.sources import download as module
from pipeline.sources.download import Patience, download
from pipeline.sources.provider import Cancelled, Context, Unreachable
from tests.support.file_server import Site, serving
from tests.support.locks import context_of, sha256

CONTENT = bytes(range(256)) * 4096
PATH = "/v1/file.tar.gz"
KEPT = 65_536
"""A download is kept in pieces of this size."""


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site(files={PATH: CONTENT})) as running:
        yield running


class Clock:
    """Counts waits instead of waiting."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def patience(self) -> Patience:
        return Patience(sleep=self.waits.append)


def get(site: Site, tmp_path: Path, *, context: Context | None = None, **more: object) -> Path:
    target = tmp_path / "got"
    wanted = str(more.get("wanted", sha256(CONTENT)))
    patience = more.get("patience", Clock().patience())
    assert isinstance(patience, Patience)
    download(
        site.url + PATH,
        target,
        digest=("sha256", wanted),
        context=context or context_of(tmp_path),
        title="file",
        patience=patience,
    )
    return target


def leftovers(tmp_path: Path) -> list[str]:
    return [p.name for p in (tmp_path / "store" / "partial").iterdir() if p.suffix != ".lock"]


def test_a_file_comes_whole(site: Site, tmp_path: Path) -> None:
    assert get(site, tmp_path).read_bytes() == CONTENT
    assert leftovers(tmp_path) == []


def test_a_cut_download_goes_on_where_it_ended(site: Site, tmp_path: Path) -> None:
    site.cuts[PATH] = [5 * KEPT, 4 * KEPT]

    assert get(site, tmp_path).read_bytes() == CONTENT

    assert [asked for _, asked in site.requests] == [
        None,
        f"bytes={5 * KEPT}-",
        f"bytes={9 * KEPT}-",
    ]


def test_what_an_earlier_run_left_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.cuts[PATH] = [3 * KEPT] + [0] * 4
    with pytest.raises(Unreachable, match=str(3 * KEPT)):
        get(site, tmp_path)
    assert not (tmp_path / "got").exists()

    assert get(site, tmp_path).read_bytes() == CONTENT
    assert site.requests[-1] == (PATH, f"bytes={3 * KEPT}-")


def test_a_server_without_ranges_sends_all_again(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cuts[PATH] = [300_000]

    assert get(site, tmp_path).read_bytes() == CONTENT


def test_server_faults_are_retried_with_growing_pauses(site: Site, tmp_path: Path) -> None:
    clock = Clock()
    site.statuses[PATH] = [500, 503, 502, 429]

    get(site, tmp_path, patience=clock.patience())

    assert len(clock.waits) == 4
    assert clock.waits == sorted(clock.waits)
    assert clock.waits[0] >= 0.8


def test_faults_that_stay_are_reported_with_what_to_do(site: Site, tmp_path: Path) -> None:
    site.statuses[PATH] = [503] * 9

    with pytest.raises(Unreachable, match="HTTP 503") as caught:
        get(site, tmp_path)

    assert caught.value.problems[0].hint
    assert len(site.requests) == 5


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final(site: Site, tmp_path: Path, status: int) -> None:
    site.statuses[PATH] = [status]

    with pytest.raises(Unreachable, match=f"HTTP {status}"):
        get(site, tmp_path)

    assert len(site.requests) == 1


def test_a_flipped_byte_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    bad = bytearray(CONTENT)
    bad[1000] ^= 1
    site.files[PATH] = bytes(bad)

    with pytest.raises(IntegrityError, match="sha256"):
        get(site, tmp_path)

    assert not (tmp_path / "got").exists()
    assert leftovers(tmp_path) == []


def test_a_file_that_ends_early_is_refused(site: Site, tmp_path: Path) -> None:
    site.files[PATH] = CONTENT[:-1]

    with pytest.raises(IntegrityError, match=f"gave {len(CONTENT) - 1} bytes"):
        get(site, tmp_path)


def test_a_web_page_instead_of_the_file_is_called_that(site: Site, tmp_path: Path) -> None:
    site.files[PATH] = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"

    with pytest.raises(IntegrityError, match="web page") as caught:
        get(site, tmp_path)

    assert "proxy" in str(caught.value)
    assert leftovers(tmp_path) == []


def test_bad_bytes_of_an_earlier_run_are_replaced(site: Site, tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context.store.partial_path(sha256(CONTENT)).write_bytes(b"rubbish")

    assert get(site, tmp_path, context=context).read_bytes() == CONTENT


def test_too_many_bytes_of_an_earlier_run_are_replaced(site: Site, tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context.store.partial_path(sha256(CONTENT)).write_bytes(CONTENT + b"more")

    assert get(site, tmp_path, context=context).read_bytes() == CONTENT


def test_nobody_waits_twice_for_a_host_that_gives_no_connection(tmp_path: Path) -> None:
    with serving(Site()) as site:
        pass  # its port is closed again
    context, clock = context_of(tmp_path), Clock()

    with pytest.raises(Unreachable):
        get(site, tmp_path, context=context, patience=clock.patience())
    assert len(clock.waits) == 1

    with pytest.raises(Unreachable, match="cannot reach 127.0.0.1"):
        get(site, tmp_path, context=context, patience=clock.patience())
    assert len(clock.waits) == 1


def test_a_cancelled_run_stops_downloading(site: Site, tmp_path: Path) -> None:
    context = context_of(tmp_path)
    context.cancel.set()

    with pytest.raises(Cancelled):
        get(site, tmp_path, context=context)


def test_a_full_disk_is_named(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_receive", full)

    with pytest.raises(StorageError, match="No space left") as caught:
        get(site, tmp_path)
    assert caught.value.problems[0].hint
