# SPDX-License-Identifier: Apache-2.0
"""What can this host do, and how does it get what it lacks?"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from kubekiln.errors import KubekilnError
from kubekiln.host import TOOLS, missing_tools
from kubekiln.paths import Project, cache_dir
from kubekiln.process import Command, find_tool, run

Verdict = Literal["ok", "warn", "fail"]

_REACH_TIMEOUT_S = 5.0
# A first bake: 17 GB of Go build cache and 17 GB of modules if everything is built from source
# (FACTS measured for 1.37), 3 GB of scratch, 1 GB of image.
_DISK_FREE_BUILD_GB = 40
_DISK_FREE_BAKE_GB = 8
# See docs/targets.md: Linux 6.12 panics under TCG of older ones unless CMPXCHG16B is left out.
_QEMU_WHOLE_MAJOR = 10
_MACHINE_MEMORY_GB = 4
_INOTIFY_LIMIT = "/proc/sys/fs/inotify/max_user_instances"
# The kernel's default of 128 was seen to be enough for six machines, and not for nine.
_WATCHERS_PER_MACHINE = 20
_MACHINES_OF_HA = 9


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    verdict: Verdict
    detail: str
    hint: str | None = None


def examine(project: Project) -> list[Finding]:
    """Make every check; checks that wait for the network or a guest run side by side."""
    checks: tuple[Callable[[Project], Iterable[Finding]], ...] = (
        check_tools,
        check_privilege,
        check_memory,
        check_disk,
        check_kvm,
        check_qemu,
        check_nspawn,
        check_mirrors,
        check_sources,
    )
    with ThreadPoolExecutor(len(checks)) as pool:
        return [finding for found in pool.map(lambda check: [*check(project)], checks)
                for finding in found]  # fmt: skip


def check_tools(_project: Project) -> Iterable[Finding]:
    """Programs of the table in `kubekiln.host`, by scope."""
    for scope in dict.fromkeys(tool.scope for tool in TOOLS):
        lacking = missing_tools(scope)
        if lacking:
            packages = " ".join(sorted({tool.package for tool in lacking}))
            what = "; ".join(f"{t.name} ({t.purpose})" for t in lacking)
            hint = f"`make setup`, or: apt-get install {packages}"
            yield Finding(f"tools: {scope}", "fail", f"missing {what}", hint)
        else:
            count = sum(tool.scope == scope for tool in TOOLS)
            yield Finding(f"tools: {scope}", "ok", f"all {count} there")


def check_privilege(_project: Project) -> Iterable[Finding]:
    """Bakes and nspawn machines need root, directly or by sudo without a password prompt."""
    if os.geteuid() == 0:
        yield Finding("privilege", "ok", "running as root")
    elif find_tool("sudo") and run(Command(["sudo", "-n", "true"]), check=False).returncode == 0:
        yield Finding("privilege", "ok", "sudo works without asking")
    else:
        hint = "run `sudo -v` first; a bake and nspawn machines need root"
        yield Finding("privilege", "warn", "sudo would ask for a password", hint)


def check_memory(_project: Project) -> Iterable[Finding]:
    """A single-node machine wants 4 GB; a Kubernetes build peaks at 2.7 GB."""
    text = Path("/proc/meminfo").read_text()
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    available_gb = int(match[1]) / 1e6 if match else 0.0
    verdict: Verdict = "ok" if available_gb >= _MACHINE_MEMORY_GB else "warn"
    hint = None if verdict == "ok" else "give the node less: memory_mib in the cluster's config"
    yield Finding("memory", verdict, f"{available_gb:.0f} GB available", hint)


def check_disk(project: Project) -> Iterable[Finding]:
    """Space below the project and below the cache."""
    for topic, place, need in (
        ("disk: build", project.root, _DISK_FREE_BAKE_GB),
        ("disk: cache", _existing(cache_dir()), _DISK_FREE_BUILD_GB),
    ):
        free_gb = shutil.disk_usage(place).free / 1e9
        if free_gb >= need:
            yield Finding(topic, "ok", f"{free_gb:.0f} GB free at {place}")
        else:
            hint = f"{need} GB are wanted when everything is built from source"
            yield Finding(topic, "warn", f"{free_gb:.0f} GB free at {place}", hint)


def check_kvm(_project: Project) -> Iterable[Finding]:
    """KVM that works: /dev/kvm may exist and not be able to run a guest."""
    from pipeline.targets.kvm import kvm_works

    try:
        works, why = kvm_works()
    except KubekilnError as error:
        works, why = False, str(error.problems[0].what)
    if works:
        yield Finding("kvm", "ok", why)
    else:
        hint = "machines run under TCG (software); a boot takes minutes, or use --target nspawn"
        yield Finding("kvm", "warn", why, hint)


def check_qemu(_project: Project) -> Iterable[Finding]:
    """QEMU before 10 emulates CMPXCHG16B wrongly: machines run without it, and slower."""
    tool = find_tool("qemu-system-x86_64")
    if tool is None:
        yield Finding("qemu", "fail", "not installed", "`make setup`")
        return
    match = re.search(r"version (\d+)\.(\d+)", run(Command([tool, "--version"])).text)
    major = int(match[1]) if match else 0
    version = match[0].removeprefix("version ") if match else "of unknown version"
    if major >= _QEMU_WHOLE_MAJOR:
        yield Finding("qemu", "ok", f"QEMU {version}")
    else:
        hint = (
            f"without KVM, QEMU ≥ {_QEMU_WHOLE_MAJOR} boots faster; on Debian 12 it is in "
            "bookworm-backports: add that suite to your apt sources, then "
            "`apt-get install -t bookworm-backports qemu-system-x86 qemu-utils`"
        )
        detail = f"QEMU {version}: works, with one CPU instruction (CMPXCHG16B) left out"
        yield Finding("qemu", "warn", detail, hint)


def check_nspawn(_project: Project) -> Iterable[Finding]:
    """systemd-nspawn machines: overlayfs, network namespaces and the kernel's CNI needs."""
    from pipeline.targets.overlay import has_overlayfs

    if find_tool("systemd-nspawn") is None:
        yield Finding("nspawn", "fail", "systemd-nspawn is not installed", "`make setup`")
        return
    if not has_overlayfs():
        yield Finding("nspawn", "warn", "the kernel has no overlayfs", "run with --target qemu")
        return
    mode = "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1 (hybrid)"
    yield Finding("nspawn", "ok", f"overlayfs there, cgroup {mode}")
    yield _container_machines(int(Path(_INOTIFY_LIMIT).read_text()))


def _container_machines(watchers: int) -> Finding:
    """Each machine's systemd and Kubernetes watch files with the instances of one user, root."""
    count = watchers // _WATCHERS_PER_MACHINE
    topic, detail = "nspawn: machines", f"{watchers} inotify instances are enough for {count}"
    if count >= _MACHINES_OF_HA:
        return Finding(topic, "ok", detail)
    hint = "sysctl fs.inotify.max_user_instances=1024 (and in /etc/sysctl.d, to keep it)"
    return Finding(topic, "warn", detail, hint)


def check_mirrors(_project: Project) -> Iterable[Finding]:
    """The distribution's mirror, as this host's own apt sources name it."""
    from pipeline.apt import debian_mirror

    try:
        mirror = debian_mirror()
    except KubekilnError as error:
        problem = error.problems[0]
        yield Finding("mirror: debian", "warn", problem.what, problem.hint)
        return
    yield _reached("mirror: debian", mirror.main)


def check_sources(_project: Project) -> Iterable[Finding]:
    """Where components can come from: upstream's release site, the Go module proxy."""
    upstream = _reached("source: upstream", "https://dl.k8s.io/")
    yield upstream
    proxy = _go_proxy()
    if proxy:
        yield _reached("source: gomod", proxy)
    else:
        yield Finding("source: gomod", "ok", "Go's own default proxy (GOPROXY is not set)")


def _reached(topic: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), _REACH_TIMEOUT_S):
            return Finding(topic, "ok", f"{parts.hostname} answers")
    except OSError as error:
        hint = "another provider of the lock is taken; `kubekiln lock show` lists them"
        return Finding(topic, "warn", f"{parts.hostname} can't be reached: {error}", hint)


def _go_proxy() -> str | None:
    """The first proxy that this host's Go is set to use; none if only Go could tell."""
    setting = os.environ.get("GOPROXY", "")
    go = find_tool("go")
    if not setting and go:
        setting = run(Command([go, "env", "GOPROXY"], cwd=Path("/"))).text
    first = re.split("[,|]", setting)[0]
    return first if first.startswith("http") else None


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
