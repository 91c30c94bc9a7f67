# SPDX-License-Identifier: Apache-2.0
"""How does a test run a script of an element on a fake root, with fake commands?"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubekiln.process import Command, Result, run

EPOCH = "1000000000"
ELEMENTS = Path(__file__).resolve().parents[2] / "elements"

# The host's programs below an overlay, so that a script may write to /usr, too.
_IN_ROOT = """
root=$1; shift
for link in bin sbin lib lib64; do
    if [ -L "/$link" ]; then ln -sfn "$(readlink "/$link")" "$root/$link"; fi
done
mkdir -p "$root/proc" "$root/dev" "$root/fake" "$root/tmp"
mount -t overlay overlay -o "lowerdir=/usr,upperdir=$root/usr,workdir=$root.work" "$root/usr"
mount --bind "$root.fake" "$root/fake"
mount --bind /dev "$root/dev"
mount --bind /proc "$root/proc"
exec chroot "$root" "$@"
"""


@dataclass
class FakeBuild:
    """What dib gives a script: hooks, a root, an environment; and commands that do nothing."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in (self.root, self.hooks, self.commands, self.root / "usr", self._work):
            path.mkdir(parents=True, exist_ok=True)
        # dib runs as root or calls sudo: either way the words after it are what is done.
        self.fake("sudo", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"', quiet=True)

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def hooks(self) -> Path:
        return self.directory / "hooks"

    @property
    def commands(self) -> Path:
        return self.directory / "root.fake"

    @property
    def _work(self) -> Path:
        return self.directory / "root.work"

    def use(self, *elements: str) -> None:
        """Merge elements into one tree, as dib does."""
        for element in elements:
            shutil.copytree(ELEMENTS / element, self.hooks, symlinks=True, dirs_exist_ok=True)

    def fake(self, name: str, body: str = ":", *, quiet: bool = False) -> None:
        """Make a command that notes its words and does `body`."""
        note = "" if quiet else f'echo "{name} $*" >>"$(dirname "$0")/log"\n'
        path = self.commands / name
        path.write_text(f"#!/bin/sh\n{note}{body}\n")
        path.chmod(0o755)

    def log(self) -> list[str]:
        """What the fake commands were called with."""
        file = self.commands / "log"
        return file.read_text().splitlines() if file.is_file() else []

    def put(self, path: str, text: str = "", *, mode: int = 0o644) -> Path:
        """Make a file of the root."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def files(self) -> set[str]:
        """List the files and links of the root."""
        return {
            str(p.relative_to(self.root))
            for p in self.root.rglob("*")
            if p.is_symlink() or p.is_file()
        }

    def run_outside(self, script: str, *, check: bool = True) -> Result:
        """Run a script of a phase that dib runs on the build host."""
        env = {
            "ARCH": "amd64",
            "SOURCE_DATE_EPOCH": EPOCH,
            "TARGET_ROOT": str(self.root),
            "TMP_BUILD_DIR": str(self.directory),
            "TMP_HOOKS_PATH": str(self.hooks),
            "TMP_MOUNT_PATH": str(self.root),
            **self._settings(self.commands),
        }
        return run(Command(["bash", self.hooks / script], env=env), check=check)

    def run_inside(self, script: str) -> Result:
        """Run a script of a phase that dib runs in the image; needs root."""
        shutil.copy(self.hooks / script, self.put("script"))
        command = ["unshare", "--mount", "--propagation=private", "sh", "-euc", _IN_ROOT, "-",
                   self.root, "bash", "/script"]  # fmt: skip
        result = run(
            Command(
                command,
                env={"ARCH": "amd64", "SOURCE_DATE_EPOCH": EPOCH, **self._settings(Path("/fake"))},
            )
        )
        (self.root / "script").unlink()
        return result

    def _settings(self, commands: Path) -> Mapping[str, str]:
        defaults = {}
        for file in sorted((self.hooks / "environment.d").glob("*.bash")):
            lines = [ln.split(" ", 1)[1].split("=", 1)[0] for ln in file.read_text().splitlines()]
            shown = "; ".join(f'echo "{name}=${name}"' for name in lines)
            told = run(
                Command(["bash", "-eu", "-c", f". {file}; {shown}"], env=self.environment)
            ).text
            defaults.update(ln.split("=", 1) for ln in told.splitlines())
        return {**defaults, **self.environment, "PATH": f"{commands}:/usr/sbin:/usr/bin:/sbin:/bin"}
