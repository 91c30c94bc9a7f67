# SPDX-License-Identifier: Apache-2.0
"""Does a database of one member become one of three while it serves, as docs/growth.md says?

Container machines; the tests share one cluster and run in the order in which they stand here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import BOOT_S, Lab
from tests.support.etcd import etcd_keys
from tests.support.fleet import Fleet, fleet
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.in_order,
    pytest.mark.timeout(BOOT_S),
]  # fmt: skip

NAME, FIRST, WORKER = "grows", "grows-1", "grows-2"
ADDED = {"grows-3": "10.80.0.31", "grows-4": "10.80.0.32"}
KEYS = 1_000
# Seconds on an idle host: other tests' machines boot beside these.
LIMIT_S = 300
LONE_UNITS = ("kube-controller-manager.service", "kube-scheduler.service")


@pytest.fixture(scope="module")
def grown(lab: Lab, image: Path) -> Iterator[Fleet]:
    """A master and a worker that run, and two masters more, declared since, that are off."""
    assert image.exists()
    lab.add_cluster(NAME, workers=1)
    with fleet(lab.project, NAME) as before:
        before.boot([FIRST, WORKER])
        before.wait_ready()
        masters = [{"name": n, "role": "master", "address": at} for n, at in ADDED.items()]
        lab.edit_cluster(NAME, lambda config: config["nodes"].extend(masters))
        with fleet(lab.project, NAME) as after:
            yield after


@pytest.fixture(scope="module")
def keys(grown: Fleet) -> list[object]:
    """What is in the database before anything happens."""
    return etcd_keys(grown, FIRST, write=KEYS)


def members(grown: Fleet, asked: str) -> dict[str, list[str]]:
    """Give each member's ID, state, name, …, by its URL for the others."""
    listed = (line.split(", ") for line in grown.etcdctl(asked, "member", "list").splitlines())
    return {fields[3]: fields for fields in listed}


def peer_url(grown: Fleet, name: str) -> str:
    return f"https://{grown.machines[name].address.ip}:2380"


def add(grown: Fleet, asked: str, name: str, *options: str) -> None:
    """Add a member, which is refused until all have been connected for five seconds."""
    url = peer_url(grown, name)

    def is_added() -> bool:
        grown.etcdctl(asked, "member", "add", name, *options, f"--peer-urls={url}", check=False)
        return url in members(grown, asked)

    until(is_added, what=f"{name} is a member", timeout_s=LIMIT_S, every_s=1)


def test_a_master_that_is_no_member_waits_and_says_so(grown: Fleet, keys: list[object]) -> None:
    grown.boot(ADDED)

    for name in ADDED:
        until(lambda name=name: "KUBEKILN etcd=refused" in grown.console(name),
              what=f"a refusal of {name}", timeout_s=LIMIT_S)  # fmt: skip
        assert f"{FIRST} knows no member at {peer_url(grown, name)}" in grown.console(name)
    assert etcd_keys(grown, FIRST) == keys
    assert len(members(grown, FIRST)) == 1


@pytest.mark.parametrize("name", ADDED)
def test_one_that_is_added_as_a_learner_joins_and_is_promoted(
    grown: Fleet, keys: list[object], name: str
) -> None:
    url = peer_url(grown, name)
    # Rendered when it was alone: it takes no lease, and two would work at once.
    grown.inside(FIRST, "/usr/bin/systemctl", "stop", *LONE_UNITS)
    add(grown, FIRST, name, "--learner")
    until(lambda: members(grown, FIRST)[url][1] == "started", what=f"{name}", timeout_s=LIMIT_S)

    def promote() -> bool:
        words = ("member", "promote", members(grown, FIRST)[url][0])
        return "promoted" in grown.etcdctl(FIRST, *words, check=False)

    until(promote, what=f"{name} has all the data", timeout_s=LIMIT_S, every_s=1)

    until(lambda: grown.reaches_api(name), what=f"{name} serves", timeout_s=LIMIT_S)
    assert etcd_keys(grown, name) == keys


def test_then_the_first_machine_can_be_made_anew_and_all_know_all(
    grown: Fleet, keys: list[object]
) -> None:
    last = list(ADDED)[-1]
    grown.target.destroy(grown.machines[FIRST])
    grown.etcdctl(last, "member", "remove", members(grown, last)[peer_url(grown, FIRST)][0])
    add(grown, last, FIRST)

    grown.boot([FIRST])

    until(lambda: grown.reaches_api(FIRST), what=f"{FIRST} serves", timeout_s=LIMIT_S)
    assert etcd_keys(grown, FIRST) == keys
    listed = members(grown, FIRST)
    assert {fields[2] for fields in listed.values()} == {FIRST, *ADDED}
    assert {fields[5] for fields in listed.values()} == {"false"}, "no learner is left"


def test_a_worker_that_is_made_anew_uses_the_masters_that_were_added(grown: Fleet) -> None:
    grown.target.destroy(grown.machines[WORKER])
    grown.boot([WORKER])
    grown.wait_ready()

    grown.cut_off(FIRST)

    until(
        lambda: grown.reaches_api(WORKER, "127.0.0.1:7443"),
        what="another master behind the worker's balancer", timeout_s=LIMIT_S,
    )  # fmt: skip
