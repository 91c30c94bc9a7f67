# SPDX-License-Identifier: Apache-2.0
"""What would a bake have to do? (Looks into the caches; fetches, makes and writes nothing.)"""

from __future__ import annotations

from dataclasses import dataclass

from kubekiln.paths import Project
from pipeline.lock import Lock
from pipeline.model import Image
from pipeline.plan import Plan, make_plan
from pipeline.sources.provider import Context, Request
from pipeline.stages.components import choose
from pipeline.stages.fetch import Fetched, Fetcher, provider_order
from pipeline.stages.publish import published
from pipeline.store import Store


@dataclass(frozen=True)
class Step:
    """One stage, and whether its outcome is there."""

    title: str
    is_cached: bool
    detail: str = ""
    compiles: bool = False
    """Programs are built from Go modules, which takes room."""


def forecast_bake(image: Image, *, project: Project, lock: Lock) -> tuple[Step, ...]:
    """Say of each stage whether it is cached; what depends on one that isn't counts as not."""
    plan = make_plan(image, project)
    found, lacking = look_up_components(image, lock)
    names = ", ".join(f"{request.component} {request.version}" for request in lacking)
    detail = f"to get: {names}" if lacking else f"{len(found)} in the store"
    compiles = any(_fetcher(image, lock).compiles(request) for request in lacking)
    steps = [
        Step(plan.base.title, plan.base.is_done()),
        Step("Components", not lacking, detail, compiles),
    ]
    return (*steps, *_after_components(plan, found, known=all(s.is_cached for s in steps)))


def look_up_components(image: Image, lock: Lock) -> tuple[dict[str, Fetched], list[Request]]:
    """Find the image's components in the store, and name those that aren't there."""
    fetcher = _fetcher(image, lock)
    found, lacking = {}, []
    for name, version in image.components.items():
        release = lock.release(name, version)
        request = Request(name, version, image.architecture, release, fetcher.context)
        there = fetcher.look_up(request)
        if there is None:
            lacking.append(request)
        else:
            found[name] = there
    return found, lacking


def _fetcher(image: Image, lock: Lock) -> Fetcher:
    context = Context(lock, Store.default(), mirror=image.component_mirror)
    return Fetcher(context, provider_order(image.providers))


def _after_components(plan: Plan, found: dict[str, Fetched], *, known: bool) -> tuple[Step, ...]:
    titles = ("Root file system: elements", "Disk image", "Published image")
    if not known:
        return tuple(Step(title, is_cached=False) for title in titles)
    rootfs = plan.rootfs(choose(found).digests)
    disk = plan.disk(rootfs)
    result = published(plan.image, disk, plan.project.images_dir)
    there = (rootfs.is_done(), disk.is_done(), result.read() is not None)
    details = ("", "", result.qcow2.name)
    return tuple(Step(*step) for step in zip(titles, there, details, strict=True))
