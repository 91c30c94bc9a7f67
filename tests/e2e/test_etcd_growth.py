# SPDX-License-Identifier: Apache-2.0
"""Does a database of one member become one of three while it serves, as docs/growth.md says?

Container machines: masters that are members themselves, then machines that are nothing else. The
tests share a cluster of each kind and run in the order in which they stand here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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

KEYS = 1_000
# Seconds on an idle host: other tests' machines boot beside these.
LIMIT_S = 300


@dataclass(frozen=True)
class Kind:
    """A cluster whose database grows."""

    name: str
    others: dict[str, int]
    """What it has beside its first machine, a master, when it is made."""
    first: str
    """Its only member then."""
    role: str
    """Of the members that are added."""
    user: str
    """The machine that has to be made anew to make use of them."""
    way: str
    """By which it reaches an API then."""
    lone_units: tuple[str, ...] = ()
    """What has to be stopped where it runs alone."""

    @property
    def added(self) -> dict[str, str]:
        """The members that are added, with their addresses."""
        return {f"{self.name}-3": "10.80.0.31", f"{self.name}-4": "10.80.0.32"}


KINDS = (
    Kind(
        "grows", {"workers": 1}, "grows-1", "master", "grows-2", "127.0.0.1:7443",
        lone_units=("kube-controller-manager.service", "kube-scheduler.service"),
    ),
    Kind("db-grows", {"databases": 1}, "db-grows-2", "etcd", "db-grows-1", "127.0.0.1:6443"),
)  # fmt: skip


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.role)
def kind(request: pytest.FixtureRequest) -> Kind:
    assert isinstance(request.param, Kind)
    return request.param


@pytest.fixture(scope="module")
def grown(lab: Lab, image: Path, kind: Kind) -> Iterator[Fleet]:
    """Machines that run, and two members more, declared since, that are off."""
    assert image.exists()
    before = lab.add_cluster(kind.name, **kind.others)
    with fleet(lab.project, kind.name) as small:
        small.boot(before)
        small.wait_ready()
        more = [{"name": n, "role": kind.role, "address": at} for n, at in kind.added.items()]
        lab.edit_cluster(kind.name, lambda config: config["nodes"].extend(more))
        with fleet(lab.project, kind.name) as after:
            yield after


@pytest.fixture(scope="module")
def keys(grown: Fleet, kind: Kind) -> list[object]:
    """What is in the database before anything happens."""
    return etcd_keys(grown, kind.first, write=KEYS)


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


def serves(grown: Fleet, kind: Kind, name: str) -> bool:
    """Tell whether a member answers: as a master by its API, else by itself."""
    if kind.role == "master":
        return grown.reaches_api(name)
    return "is healthy" in grown.etcdctl(name, "endpoint", "health", check=False)


def test_a_machine_that_is_no_member_waits_and_says_so(
    grown: Fleet, kind: Kind, keys: list[object]
) -> None:
    grown.boot(kind.added)

    for name in kind.added:
        until(lambda name=name: "KUBEKILN etcd=refused" in grown.console(name),
              what=f"a refusal of {name}", timeout_s=LIMIT_S)  # fmt: skip
        assert f"{kind.first} knows no member at {peer_url(grown, name)}" in grown.console(name)
    assert etcd_keys(grown, kind.first) == keys
    assert len(members(grown, kind.first)) == 1


@pytest.mark.parametrize("number", [0, 1])
def test_one_that_is_added_as_a_learner_joins_and_is_promoted(
    grown: Fleet, kind: Kind, keys: list[object], number: int
) -> None:
    name = list(kind.added)[number]
    url = peer_url(grown, name)
    if kind.lone_units:
        # Rendered when it was alone: they take no lease, and two would work at once.
        grown.inside(kind.first, "/usr/bin/systemctl", "stop", *kind.lone_units)
    add(grown, kind.first, name, "--learner")
    until(
        lambda: members(grown, kind.first)[url][1] == "started",
        what=f"{name} started", timeout_s=LIMIT_S,
    )  # fmt: skip

    def promote() -> bool:
        words = ("member", "promote", members(grown, kind.first)[url][0])
        return "promoted" in grown.etcdctl(kind.first, *words, check=False)

    until(promote, what=f"{name} has all the data", timeout_s=LIMIT_S, every_s=1)

    until(lambda: serves(grown, kind, name), what=f"{name} serves", timeout_s=LIMIT_S)
    assert etcd_keys(grown, name) == keys


def test_then_the_first_member_can_be_made_anew_and_all_know_all(
    grown: Fleet, kind: Kind, keys: list[object]
) -> None:
    first, last = kind.first, list(kind.added)[-1]
    grown.target.destroy(grown.machines[first])
    grown.etcdctl(last, "member", "remove", members(grown, last)[peer_url(grown, first)][0])
    add(grown, last, first)

    grown.boot([first])

    until(lambda: serves(grown, kind, first), what=f"{first} serves", timeout_s=LIMIT_S)
    assert etcd_keys(grown, first) == keys
    listed = members(grown, first)
    assert {fields[2] for fields in listed.values()} == {first, *kind.added}
    assert {fields[5] for fields in listed.values()} == {"false"}, "no learner is left"


def test_a_machine_that_is_made_anew_uses_the_members_that_were_added(
    grown: Fleet, kind: Kind
) -> None:
    grown.target.destroy(grown.machines[kind.user])
    grown.boot([kind.user])
    grown.wait_ready()

    grown.cut_off(kind.first)

    until(
        lambda: grown.reaches_api(kind.user, kind.way),
        what="an API without the first member", timeout_s=LIMIT_S,
    )  # fmt: skip
