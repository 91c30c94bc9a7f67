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


def forecast_bake(image: Image, *, project: Project, lock: Lock) -> tuple[Step, ...]:
    """Say of each stage whether it is cached; what depends on one that isn't counts as not."""
    plan = make_plan(image, project)
    found, lacking = look_up_components(image, lock)
    detail = f"to get: {', '.join(lacking)}" if lacking else f"{len(found)} in the store"
    steps = [
        Step(plan.base.title, plan.base.is_done()),
        Step("Components", not lacking, detail),
    ]
    return (*steps, *_after_components(plan, found, known=all(s.is_cached for s in steps)))


def look_up_components(image: Image, lock: Lock) -> tuple[dict[str, Fetched], list[str]]:
    """Find the image's components in the store, and name those that aren't there."""
    context = Context(lock, Store.default(), mirror=image.component_mirror)
    fetcher = Fetcher(context, provider_order(image.providers))
    found, lacking = {}, []
    for name, version in image.components.items():
        release = lock.release(name, version)
        there = fetcher.look_up(Request(name, version, image.architecture, release, context))
        if there is None:
            lacking.append(f"{name} {version}")
        else:
            found[name] = there
    return found, lacking


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
