# SPDX-License-Identifier: Apache-2.0
"""How does an image come to be, from its configuration to the published files?

The stages, in order: preflight, then fetch beside base, rootfs, disk, inspect, record.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kubekiln.files import make_dir
from kubekiln.paths import Project
from kubekiln.progress import step
from kubekiln.sudo import ticket_kept
from pipeline import cache
from pipeline.cache import Stage
from pipeline.lock import Lock
from pipeline.model import Image
from pipeline.plan import Plan
from pipeline.stages.components import Components, gather
from pipeline.stages.disk import make_disk
from pipeline.stages.inspect import accept
from pipeline.stages.preflight import preflight
from pipeline.stages.publish import Published, describe, point_to, publish, published
from pipeline.stages.rootfs import make_base, make_rootfs


@dataclass(frozen=True)
class Baked:
    """A published image."""

    name: str
    digest: str
    qcow2: Path
    root_tar: Path
    manifest: Path
    reused: tuple[str, ...]
    seconds: float


def bake(image: Image, *, project: Project, lock: Lock, refresh: bool = False) -> Baked:
    """Bake an image, reusing whatever is cached, and publish it under `build/images`.

    With `refresh` the distribution's packages are installed anew, as the archive has them now.
    Killed at any moment it leaves no mount, no process and no partial image.
    """
    started = time.monotonic()
    plan = preflight(image, project=project, lock=lock, refresh=refresh)
    logs = project.logs_dir / f"bake-{image.name}"
    reused: dict[str, bool] = {}
    components, reused["base"] = _fetch_beside_base(plan, lock, logs, refresh=refresh)
    reused["components"] = components.reused
    rootfs = plan.rootfs(components.digests)
    reused["rootfs"] = cache.ensure(
        rootfs, lambda d: make_rootfs(plan, rootfs, components, d, log=_log(logs, "rootfs"))
    )
    disk = plan.disk(rootfs)
    root_tar = rootfs.output("root.tar")
    reused["disk"] = cache.ensure(
        disk, lambda d: make_disk(image, disk, root_tar, d, log=_log(logs, "disk"))
    )
    result, reused["image"] = _publish(plan, rootfs, disk, components)
    cache.prune()
    return Baked(
        name=image.name,
        digest=disk.digest,
        qcow2=result.qcow2,
        root_tar=root_tar,
        manifest=result.manifest,
        reused=tuple(sorted(name for name, was in reused.items() if was)),
        seconds=time.monotonic() - started,
    )


def _fetch_beside_base(
    plan: Plan, lock: Lock, logs: Path, *, refresh: bool
) -> tuple[Components, bool]:
    """Get the components while the distribution is installed.

    If the latter fails the former is given up; the other way round what is installed is kept.
    """
    cancel = threading.Event()
    with ticket_kept(), ThreadPoolExecutor(1, thread_name_prefix="components") as pool:
        fetching: Future[Components] = pool.submit(gather, plan.image, lock, cancel=cancel)
        try:
            reused = cache.ensure(
                plan.base,
                lambda d: make_base(plan, d, log=_log(logs, "base")),
                refresh=refresh,
            )
            return fetching.result(), reused
        except BaseException:
            cancel.set()
            raise


def _publish(
    plan: Plan, rootfs: Stage, disk: Stage, components: Components
) -> tuple[Published, bool]:
    """Inspect and publish the disk, unless the same one is published; tell whether it was."""
    image = plan.image
    result = published(image, disk, plan.project.images_dir)
    was_there = result.read() is not None
    if not was_there:
        about = describe(
            image, result, base=plan.base, rootfs=rootfs, disk=disk, components=components
        )
        with step("Inspecting the finished disk"):
            accept(disk.output("disk.qcow2"), about)
        publish(image, result, disk=disk, about=about)
    point_to(image, result)
    return result, was_there


def _log(directory: Path, stage: str) -> Path:
    """Begin a stage's log anew."""
    path = make_dir(directory) / f"{stage}.log"
    path.unlink(missing_ok=True)
    return path
