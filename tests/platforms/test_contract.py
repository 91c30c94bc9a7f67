# SPDX-License-Identifier: Apache-2.0
"""Does every platform keep what `pipeline/targets/platform.py` promises?

Each test is tried on each platform's server; what can't be tried on one is skipped with its reason.
"""

from __future__ import annotations

import gzip
import itertools
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.operations.delivery import Delivery
from kubekiln.paths import Project
from pipeline.targets.platform import InstanceSpec, TransientError
from tests.platforms.conftest import ODD, RIGS, USER_DATA, make_spec
from tests.platforms.rigs.rig import Images, Rig
from tests.support.disks import raw_sha256

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(300)]

SUPPORT = Path(__file__).resolve().parents[2] / "docs/support.md"


def need(rig: Rig, what: str) -> None:
    if what in rig.cannot:
        pytest.skip(f"{rig.name}: {what}: {rig.cannot[what]}")


def test_a_platform_that_can_be_used_has_no_problems(rig: Rig, images: Images) -> None:
    assert rig.connect().problems() == []


def test_a_platform_that_is_not_reached_may_be_a_moment_later(rig: Rig, images: Images) -> None:
    need(rig, "away")

    with pytest.raises(TransientError) as raised:
        rig.connect("away").problems()

    assert raised.value.problems[0].what


def test_an_image_arrives_whole_and_is_found_by_its_content(
    rig: Rig, images: Images, tmp_path: Path
) -> None:
    platform, (image, other) = rig.connect(), images
    assert platform.find_image(image) is None
    done: list[int] = []

    uploaded = platform.upload(image, done.append)

    assert rig.disk_sha256(uploaded, tmp_path) == raw_sha256(image.path, image.format, tmp_path)
    assert platform.find_image(image) == uploaded
    assert platform.find_image(other) is None
    assert sum(done) == image.size, "progress ends at the whole file"


def test_an_image_that_is_uploaded_twice_is_sent_and_there_once(
    rig: Rig, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        pytest.fail("it was sent again")

    first, second = (Delivery("it", rig.connect(), Project(tmp_path)) for _ in range(2))
    uploaded = first.upload(images[0])
    before = rig.leftovers()
    monkeypatch.setattr(second.platform, "upload", fail)

    again = second.upload(images[0])

    assert again == uploaded
    assert rig.leftovers() == before
    second.platform.delete_image(again)
    assert rig.leftovers() == [], "there was one"


@pytest.mark.parametrize("what", ODD)
def test_what_no_machine_can_be_is_refused_for_each_node_before_anything_is_there(
    rig: Rig, images: Images, tmp_path: Path, what: str
) -> None:
    need(rig, what)
    names = ("lab-1", "lab-2", "lab-3")
    good, *odd = (make_spec(tmp_path, name) for name in names)
    wrong = [ODD[what](spec) for spec in odd]
    to = Delivery("it", rig.connect(), Project(tmp_path))

    with pytest.raises(KubekilnError) as raised:
        to.check_nodes([good, *wrong], images[0])

    named = [[n for n in names if n in p.what] for p in raised.value.problems]
    assert named == [["lab-2"], ["lab-3"]]
    assert all(problem.hint for problem in raised.value.problems)
    to.check_nodes([good], images[0])
    assert rig.leftovers() == []


def test_two_images_are_two(rig: Rig, images: Images) -> None:
    platform = rig.connect()

    first, second = (platform.upload(image, lambda _n: None) for image in images)

    assert first.id != second.id
    platform.delete_image(first)
    assert platform.find_image(images[0]) is None
    assert platform.find_image(images[1]) == second
    platform.delete_image(first)


def test_a_machine_gets_exactly_its_user_data_and_goes_without_a_trace(
    rig: Rig, images: Images, spec: InstanceSpec
) -> None:
    need(rig, "boot")
    platform = rig.connect()
    image = platform.upload(images[0], lambda _n: None)
    before = rig.leftovers()

    made = platform.create(spec, image)

    assert (made.cluster, made.node, made.payload) == ("lab", "lab-1", spec.payload)
    seen = rig.user_data(made)
    assert (gzip.decompress(seen) if seen[:2] == b"\x1f\x8b" else seen) == USER_DATA
    (listed,) = platform.list_instances("lab")
    assert (listed.id, listed.payload) == (made.id, spec.payload)
    assert listed.state != "failed"
    assert platform.list_instances("another") == []
    platform.start(listed)

    platform.delete(listed)

    assert platform.list_instances() == []
    assert rig.leftovers() == before
    platform.delete(listed)


def test_the_database_gets_an_empty_disk_of_its_own_that_goes_with_the_machine(
    rig: Rig, images: Images, spec: InstanceSpec
) -> None:
    need(rig, "boot")
    platform = rig.connect()
    image = platform.upload(images[0], lambda _n: None)
    before = rig.leftovers()
    assert rig.etcd_disks(platform.create(spec, image)) == []
    platform.delete(*platform.list_instances())

    made = platform.create(replace(spec, role="etcd", etcd_disk_gib=2, payload="f" * 16), image)

    assert rig.etcd_disks(made) == [2]
    platform.delete(*platform.list_instances())
    assert rig.leftovers() == before


def test_user_data_is_forgotten_or_it_is_said_what_helps(
    rig: Rig, images: Images, spec: InstanceSpec
) -> None:
    need(rig, "boot")
    platform = rig.connect()
    made = platform.create(spec, platform.upload(images[0], lambda _n: None))
    if not rig.forgets:
        with pytest.raises(KubekilnError) as raised:
            platform.forget_user_data(made)
        assert not isinstance(raised.value, TransientError)
        assert "userdata.protect" in str(raised.value.problems[0].hint)
        assert rig.user_data(made)
        return

    for _ in range(2):
        platform.forget_user_data(made)

    assert rig.user_data(made) == b""
    (still,) = platform.list_instances()
    assert (still.id, still.payload) == (made.id, made.payload)
    assert still.state != "failed"


def test_asked_twice_for_one_machine_it_makes_one(
    rig: Rig, images: Images, spec: InstanceSpec
) -> None:
    need(rig, "boot")
    need(rig, "asked-twice")
    platform = rig.connect()
    image = platform.upload(images[0], lambda _n: None)

    first = platform.create(spec, image)
    second = platform.create(spec, image)

    assert first.id == second.id
    assert len(platform.list_instances("lab")) == 1


def test_machines_of_two_clusters_are_kept_apart(rig: Rig, images: Images, tmp_path: Path) -> None:
    need(rig, "boot")
    platform = rig.connect()
    image = platform.upload(images[0], lambda _n: None)
    one, two = (platform.create(make_spec(tmp_path, name), image) for name in ("lab-1", "lab-2"))

    assert {i.id for i in platform.list_instances("lab")} == {one.id, two.id}
    platform.delete(one)
    assert [i.id for i in platform.list_instances("lab")] == [two.id]


def test_the_console_can_be_read(rig: Rig, images: Images, spec: InstanceSpec) -> None:
    need(rig, "boot")
    need(rig, "console")
    platform = rig.connect()

    made = platform.create(spec, platform.upload(images[0], lambda _n: None))

    assert platform.read_console(made) is not None


def test_wrong_credentials_are_a_problem_with_a_hint_and_without_the_secret(
    rig: Rig, images: Images
) -> None:
    need(rig, "wrong-credentials")

    problems = rig.connect("wrong-credentials").problems()

    assert problems
    assert all(problem.hint for problem in problems)
    assert "wrong-secret" not in "\n".join(line for p in problems for line in p.lines())


@pytest.mark.parametrize("trouble", ["cut", "server-error"])
def test_what_may_pass_is_said_to_be_transient_and_leaves_nothing_that_counts(
    rig: Rig, images: Images, trouble: str
) -> None:
    need(rig, trouble)
    image = images[0]

    with pytest.raises(TransientError) as raised:
        rig.connect(trouble).upload(image, lambda _n: None)  # type: ignore[arg-type]

    assert raised.value.problems[0].what
    platform = rig.connect()
    assert platform.find_image(image) is None
    assert platform.upload(image, lambda _n: None) == platform.find_image(image)


def test_a_full_storage_is_an_error_that_says_so_and_leaves_nothing(
    rig: Rig, images: Images
) -> None:
    need(rig, "full-storage")

    with pytest.raises(KubekilnError) as raised:
        rig.connect("full-storage").upload(images[0], lambda _n: None)

    assert not isinstance(raised.value, TransientError), "asking again won't help"
    assert raised.value.problems[0].hint
    assert rig.connect().find_image(images[0]) is None


@pytest.mark.parametrize("trouble", ["cut", "server-error"])
def test_a_machine_that_was_half_made_is_found_and_removed(
    rig: Rig, images: Images, spec: InstanceSpec, trouble: str
) -> None:
    need(rig, "boot")
    need(rig, trouble)
    platform = rig.connect()
    image = platform.upload(images[0], lambda _n: None)
    before = rig.leftovers()

    with pytest.raises(TransientError):
        rig.connect(trouble).create(spec, image)  # type: ignore[arg-type]

    for _ in itertools.repeat(None, 3):
        for instance in platform.list_instances("lab"):
            platform.delete(instance)
    assert rig.leftovers() == before


def test_what_can_not_be_tried_is_in_the_docs() -> None:
    said = {
        f"| `{name}` | `{what}` | {why} |"
        for name, rig in RIGS.items()
        for what, why in rig.cannot.items()
    }

    assert said
    section = SUPPORT.read_text().split("## What the platforms' test servers can't do")[1]
    assert {line for line in section.splitlines() if line.startswith("| `")} == said
