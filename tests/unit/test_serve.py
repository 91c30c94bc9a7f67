# SPDX-License-Identifier: Apache-2.0
"""Is user-data given to whoever was told the address, once, in time, and to nobody else?

What asks is the node's own program, over TLS on loopback.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloudinit.offers import Offers
from kubekiln.errors import KubekilnError
from kubekiln.operations.serve import Store
from tests.support.userdata_server import Site

from kubekiln_node.protected import ProtectedError, unpack  # isort: skip


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_machine_gets_its_user_data_whole_and_only_once(site: Site) -> None:
    note = site.note()
    with site.server():
        rest = site.fetch(note)
        with pytest.raises(TimeoutError):
            site.fetch(note)

    assert len(unpack(note, rest)) > 60
    assert site.log[0].endswith("lab-1: given to 127.0.0.1")
    assert "was fetched at" in site.log[1]
    (line,) = site.console
    assert line.startswith('KUBEKILN userdata=refused reason="user-data of lab-1 was fetched at ')
    assert "by 127.0.0.1: if that was not this machine, its keys are known to another" in line


def test_it_stays_fetched_when_the_server_starts_anew_or_it_is_rendered_again(site: Site) -> None:
    note = site.note()
    with site.server():
        site.fetch(note)

    site.render()
    with site.server(), pytest.raises(TimeoutError):
        site.fetch(note)

    assert "was fetched" in site.console[0]


def test_who_may_fetch_once_more_is_named(site: Site) -> None:
    note = site.note()
    with site.server() as server:
        site.fetch(note)
        server.store.offer_again(["lab-1"])
        assert site.fetch(note)
        with pytest.raises(KubekilnError, match="nothing was offered to lab-9"):
            server.store.offer_again(["lab-9"])


def test_a_machine_waits_for_a_server_that_is_late(site: Site) -> None:
    note = site.note()
    with pytest.raises(TimeoutError):
        site.fetch(note, patience=2)
    (line,) = site.console

    assert line.startswith('KUBEKILN waiting reason="https://127.0.0.1:')
    assert "`kubekiln serve lab` gives lab-1 its user-data" in line


def test_an_offer_ends_and_rendering_renews_it(tmp_path: Path) -> None:
    site = Site(tmp_path, now=datetime.now(UTC) - timedelta(hours=25))
    note = site.note()
    with site.server():
        with pytest.raises(TimeoutError):
            site.fetch(note)
        site.render()
        assert site.note() == note
        assert site.fetch(note)

    assert "answers 403: the offer to lab-1 ended at" in site.console[0]


def test_an_older_rendering_is_given_to_nobody(site: Site) -> None:
    old = site.note()
    site.render(etcd={"quota_mib": 2048})
    with site.server():
        with pytest.raises(TimeoutError):
            site.fetch(old)
        assert site.fetch(site.note())

    assert "answers 404: no such user-data: rendered anew since?" in site.console[0]


def test_a_guess_is_told_nothing_and_no_path_is_logged(site: Site) -> None:
    note, path = site.note(), "/v1/" + "A" * 43
    with site.server():
        for url in (path, "/", "/v1/../state"):
            with pytest.raises(TimeoutError):
                site.fetch(note._replace(url=f"https://127.0.0.1:{site.port}{url}"))
        site.fetch(note)

    said = "\n".join(site.log)
    assert "127.0.0.1 asked with an unknown token" in said
    assert "A" * 43 not in said and note.url.rpartition("/")[2] not in said


def test_another_server_at_the_address_is_not_believed(tmp_path: Path) -> None:
    site, other = Site(tmp_path / "a"), Site(tmp_path / "b")
    note = site.note()._replace(url=site.note().url.replace(str(site.port), str(other.port)))

    with other.server(), pytest.raises(TimeoutError):
        site.fetch(note)

    assert "does not answer, or is not the one that was rendered" in site.console[0]
    assert other.log == []


def test_a_machine_that_hears_half_of_it_says_so(site: Site) -> None:
    note = site.note()
    with site.server():
        rest = site.fetch(note)

    with pytest.raises(ProtectedError, match="is not what was rendered for lab-1"):
        unpack(note, rest[: len(rest) // 2])


def test_many_who_say_nothing_hold_up_nobody(site: Site) -> None:
    idle = [socket.socket() for _ in range(20)]
    with site.server():
        for one in idle:
            one.connect(("127.0.0.1", site.port))
        began = time.monotonic()
        assert site.fetch(site.note())
        assert time.monotonic() - began < 9
        for one in idle:
            one.close()


def test_two_who_ask_at_once_do_not_both_get_it(site: Site) -> None:
    store = Store(site.cluster, site.project)
    path = "/v1/" + site.note().url.rpartition("/")[2]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(store.answer(path, "10.0.0.1").status))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [200] + [410] * 15


def test_a_machine_gets_it_though_the_servers_log_is_gone(site: Site) -> None:
    def broken(_line: str) -> None:
        raise BrokenPipeError

    with site.server() as server:
        server.log = broken
        first = site.fetch(site.note())

    assert first


def test_what_is_given_is_written_down_before(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(site.cluster, site.project)
    path = "/v1/" + site.note().url.rpartition("/")[2]

    def full(*_: object) -> None:
        raise KubekilnError("no space left")

    monkeypatch.setattr(Offers, "_add", full)

    with pytest.raises(KubekilnError):
        store.answer(path, "10.0.0.1")


def test_a_failure_here_is_said_and_nothing_given(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise KubekilnError("cannot write serve.journal: No space left on device")

    note = site.note()
    monkeypatch.setattr(Offers, "_add", full)
    with site.server(), pytest.raises(TimeoutError):
        site.fetch(note)

    assert "a request failed: error: cannot write serve.journal" in site.log[0]


def test_a_line_that_was_cut_off_counts_as_not_written(site: Site) -> None:
    offers = Offers(site.project.state_dir / "lab")
    whole = offers.path.read_text()
    offers.path.write_text(whole + '{"time": "2026-')

    assert len(offers.read()) == 1
    (known,) = offers.read().values()
    offers.offer_again({"lab-1": known.token}, now=datetime.now(UTC), hours=1)
    lines = offers.path.read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["offered", "offered"]

    offers.path.write_text("nonsense\n" + whole)
    with pytest.raises(KubekilnError, match="cannot make sense of a line") as raised:
        offers.read()
    assert raised.value.problems[0].where == f"{offers.path}:1"


def test_what_is_offered_again_is_what_is_rendered_now(site: Site) -> None:
    first = site.note()
    with site.server():
        site.fetch(first)
    site.render(api={"extra_sans": ["k8s.example.com"]})
    second = site.note()
    with site.server() as server:
        site.fetch(second)
        server.store.offer_again(["lab-1"])

        assert site.fetch(second)
        with pytest.raises(TimeoutError):
            site.fetch(first)


def test_the_journal_is_read_on_and_anew_when_it_was_restored(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    offers, other = Offers(tmp_path), Offers(tmp_path)
    offers.offer({"a": "1"}, now=now, hours=1)
    assert set(other.read()) == {"1"}
    before = offers.path.read_bytes()

    offers.offer({"b": "2"}, now=now, hours=1)
    assert offers.take("1", by="10.0.0.1", now=now).verdict == "given"

    assert other.read()["1"].by == "10.0.0.1"
    assert set(other.read()) == {"1", "2"}
    restored = offers.path.with_name("restored")
    restored.write_bytes(before)
    restored.replace(offers.path)
    assert set(other.read()) == {"1"}
    assert other.read()["1"].fetched is None


def test_who_only_holds_connections_is_in_nobodys_way(site: Site) -> None:
    note = site.note()
    with site.server(), contextlib.ExitStack() as idle:
        for _ in range(40):
            idle.enter_context(socket.create_connection(("127.0.0.1", site.port)))

        assert site.fetch(note)
