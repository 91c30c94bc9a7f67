# SPDX-License-Identifier: Apache-2.0
"""How does diskimage-builder make the root file system, in two layers?

`base` is the distribution with all packages (the slow part, changes seldom); `rootfs` is everything
else that the elements do, on top of it. Both are plain `disk-image-create -t tar`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from kubekiln.files import make_dir
from kubekiln.process import Command, run
from pipeline.cache import Stage
from pipeline.plan import ROOT_ELEMENT, SOURCE_DATE_EPOCH, Plan
from pipeline.sandbox import Sandbox, gib_for
from pipeline.stages.components import Components
from pipeline.stages.record import read_packages

# Measured: 1.3 GB for the base, 2.4 GB with a whole node: 2 GiB on top of the base.
_LEAST_MEMORY_GIB = 4
_ADDED_GIB = 2


def make_base(plan: Plan, scratch: Path, *, log: Path) -> None:
    """Make `root.tar` with the distribution and all packages, and `packages` that lists them."""
    env = {
        "DIB_K8S_DEBIAN_MIRROR": plan.archives.main or "",
        "DIB_K8S_DEBIAN_SECURITY_MIRROR": plan.archives.security or "",
        "DIB_K8S_DEBIAN_PACKAGES": ",".join(plan.packages),
    }
    _create(
        plan, plan.base, [ROOT_ELEMENT],
        scratch=scratch, env=env, log=log, memory_gib=_LEAST_MEMORY_GIB,
    )  # fmt: skip
    status = run(Command(["tar", "-xOf", scratch / "root.tar", "./var/lib/dpkg/status"]))
    packages = [f"{p.name} {p.version} {p.architecture}\n" for p in read_packages(status.text)]
    (scratch / "packages").write_text("".join(packages))


def make_rootfs(
    plan: Plan, stage: Stage, components: Components, scratch: Path, *, log: Path
) -> None:
    """Make `root.tar` with everything."""
    image = plan.image
    components_dir = _lay_out(components.files, scratch / "components")
    env = {
        "DIB_K8S_DEBIAN_BASE": str(plan.base.output("root.tar")),
        "DIB_K8S_DEBIAN_PUBLIC_MIRROR": image.apt.mirror or "",
        "DIB_K8S_DEBIAN_PUBLIC_SECURITY_MIRROR": image.apt.security_mirror or "",
        "DIB_K8S_BASE_KUBERNETES": image.kubernetes,
        "DIB_K8S_BOOT_KERNEL_ARGUMENTS": " ".join(image.kernel_arguments),
        "DIB_K8S_CLOUD_INIT_DATASOURCES": ", ".join(image.datasources),
        "DIB_K8S_COMPONENTS_DIR": str(components_dir),
        "DIB_K8S_CONTAINERD_SANDBOX_IMAGE": components.sandbox_image,
        "DIB_K8S_IMAGES": " ".join(str(path) for path in components.images.values()),
    }
    names = [element.name for element in plan.elements]
    base = gib_for(plan.base.output("root.tar").stat().st_size, least=1)
    memory_gib = max(_LEAST_MEMORY_GIB, base + _ADDED_GIB)
    _create(plan, stage, names, scratch=scratch, env=env, log=log, memory_gib=memory_gib)


def _lay_out(files: Mapping[str, Path], directory: Path) -> Path:
    for name, path in files.items():
        link = directory / name
        make_dir(link.parent)
        link.symlink_to(path.resolve())
    return directory


def _create(
    plan: Plan,
    stage: Stage,
    elements: Sequence[str],
    *,
    scratch: Path,
    env: Mapping[str, str],
    log: Path,
    memory_gib: int,
) -> None:
    image = plan.image
    memory_dir = make_dir(scratch / "memory")
    bin_dir = Path(sys.executable).parent
    areas = {
        "DIB_RELEASE": image.release,
        "DIB_K8S_DEBIAN_COMPONENTS": " ".join(image.apt.components),
    }
    settings = {
        "ELEMENTS_PATH": str(plan.project.elements_dir),
        "DIB_DEBUG_TRACE": "0",
        "DIB_PYTHON_EXEC": sys.executable,
        # The sandbox has a tmpfs already; dib's own would be two more, sized by half of the memory.
        "DIB_NO_TMPFS": "1",
        "HOME": str(memory_dir),
        "TMP_DIR": str(memory_dir),
        "TMPDIR": str(memory_dir),
        "PATH": f"{bin_dir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH),
    }
    argv: list[str | Path] = [
        bin_dir / "disk-image-create", "-n", "-t", "tar", "-a", image.architecture,
        "-o", scratch / "root", *elements,
    ]  # fmt: skip
    sandbox = Sandbox(stage.lock, memory_dir, memory_gib)
    run(
        sandbox.command(
            argv, env={**areas, **settings, **env}, log=log, what_for="to run diskimage-builder"
        )
    )
