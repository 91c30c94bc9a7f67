# SPDX-License-Identifier: Apache-2.0
"""How does a fresh host get what kubekiln needs? (`make setup`; standard library only.)

Says what it is about to install, asks only on a terminal, uses sudo only for what is missing, and
never touches the host's apt sources. Arguments: the scopes (kubekiln.host) of what is to be done;
all, if none is given. `many-machines` is for those who boot nine container machines at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kubekiln.host import missing_tools  # noqa: E402

VENV = ROOT / ".venv"
STAMP = VENV / "kubekiln-setup"
SCOPES = ("bake", "qemu", "nspawn", "check")
MANY_MACHINES = "many-machines"
# Of one user; a container machine takes about twenty (docs/targets.md).
WATCHERS = Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH_WATCHERS = 1024


def main(scopes: Sequence[str] = ()) -> int:
    """Install what is missing for some scopes, or for all; 0 if the host is ready."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this runs before anything checks it
        return _fail(f"Python {sys.version.split()[0]} is too old", "install Python 3.11 or newer")
    wanted = [scope for scope in scopes if scope != MANY_MACHINES]
    packages = sorted({tool.package for tool in missing_tools(*(wanted or SCOPES))})
    if importlib.util.find_spec("ensurepip") is None:
        packages.append(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")
    if packages and not _install_packages(packages):
        return 1
    if MANY_MACHINES in scopes:
        _allow_watchers()
    return _make_venv()


def _install_packages(packages: list[str]) -> bool:
    if not shutil.which("apt-get"):
        _fail(
            f"these packages are missing: {' '.join(packages)}",
            "install them with your system's package manager, then run it again",
        )
        return False
    prefix = _as_root()
    if prefix and not shutil.which("sudo"):
        _fail("not root and no sudo", f"as root: apt-get install {' '.join(packages)}")
        return False
    print(f"setup: installing from this host's own apt sources: {' '.join(packages)}", flush=True)
    if sys.stdin.isatty() and not _agreed():
        _fail("nothing was installed", f"these packages are needed: {' '.join(packages)}")
        return False
    quiet = ["-y", "-q", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"]
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    if _call([*apt, "install", *quiet, *packages]) == 0:
        return True
    print("setup: refreshing the package lists and trying once more", flush=True)
    if _call([*apt, "-q", "update"]) == 0 and _call([*apt, "install", *quiet, *packages]) == 0:
        return True
    _fail("apt-get failed", "its own message is above")
    return False


def _allow_watchers() -> None:
    """Raise a limit of the kernel's until the next boot; where that can't be, tests show it."""
    have = int(WATCHERS.read_text())
    if have >= ENOUGH_WATCHERS:
        return
    print(
        f"setup: fs.inotify.max_user_instances, until the next boot: {ENOUGH_WATCHERS} instead of "
        f"{have}, too few for nine container machines",
        flush=True,
    )
    if sys.stdin.isatty() and not _agreed():
        return
    if _call([*_as_root(), "sh", "-c", f"echo {ENOUGH_WATCHERS} >{WATCHERS}"]) != 0:
        print(f"setup: it stays at {have}: tests of many machines may fail", flush=True)


def _as_root() -> list[str]:
    # Without somebody to answer it must not ask for a password, which sudo does on any terminal.
    sudo = ["sudo"] if sys.stdin.isatty() else ["sudo", "-n"]
    return [] if os.geteuid() == 0 else sudo


def _agreed() -> bool:
    answer = input("setup: go on? [Y/n] ").strip().lower()
    return answer in ("", "y", "yes")


def _make_venv() -> int:
    wanted = hashlib.sha256(
        (ROOT / "requirements.txt").read_bytes() + sys.version.encode() + bytes(VENV)
    ).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return 0
    print(f"setup: making {VENV.relative_to(ROOT)} with the pinned Python packages", flush=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        [*pip, "install", "--require-hashes", "--no-deps", "-r", str(ROOT / "requirements.txt")],
        [*pip, "install", "--no-deps", "--no-build-isolation", "-e", str(ROOT)],
    )
    for step in steps:
        if _call(step) != 0:
            return _fail(f"`{' '.join(step)}` failed", "its own message is above")
    STAMP.write_text(wanted)
    return 0


def _call(argv: list[str]) -> int:
    # The one process call outside kubekiln.process: this file runs before its imports exist.
    return os.spawnvp(os.P_WAIT, argv[0], argv)


def _fail(what: str, hint: str) -> int:
    print(f"error: {what}\n  hint: {hint}", file=sys.stderr)
    return 1


def run() -> int:
    """Do what the command line asks for; an interrupt is no error of ours."""
    try:
        return main(sys.argv[1:])
    except (KeyboardInterrupt, EOFError):
        return _fail("interrupted", "run it again: what was done stays")


if __name__ == "__main__":
    sys.exit(run())
