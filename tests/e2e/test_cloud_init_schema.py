# SPDX-License-Identifier: Apache-2.0
"""Does the distribution's own cloud-init find rendered user-data and network-config valid?

Its package is unpacked, never installed: installed, it would configure this host at its next boot.
The image's cloud-init validates the same files on the booted node (test_boot.py).
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from kubekiln.process import find_tool
from tests.support.clusters import render

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the unpacked package of cloud-init and the Python packages it needs."""
    if find_tool("apt-get") is None:
        pytest.skip("this host has no apt to get cloud-init with")
    root = tmp_path_factory.mktemp("cloud-init")
    root.chmod(0o755)
    needed = call(
        "apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
        "--no-breaks", "--no-replaces", "--no-enhances", "cloud-init",
    )  # fmt: skip
    packages = sorted(set(re.findall(r"^(python3-\S+)$", needed, re.MULTILINE)))
    packages = [p for p in packages if p not in ("python3-minimal", "python3-distutils")]
    call("apt-get", "download", "cloud-init", *packages, cwd=root)
    for package in sorted(root.glob("*.deb")):
        call("dpkg-deb", "--extract", str(package), str(root / "unpacked"))
    return root / "unpacked"


def call(*argv: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def validate(distribution: Path, path: Path) -> subprocess.CompletedProcess[str]:
    # The distribution's Python with its own packages first: our `cloudinit` isn't theirs.
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    env["PYTHONPATH"] = str(distribution / "usr/lib/python3/dist-packages")
    program = distribution / "usr/bin/cloud-init"
    argv = ["/usr/bin/python3", program, "schema", "--config-file", path]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


def test_user_data_is_valid(distribution: Path, tmp_path: Path) -> None:
    node = render(tmp_path, network={"nameservers": ["10.80.0.3"]}).nodes[0]

    verdict = validate(distribution, node.user_data)

    assert verdict.returncode == 0, verdict.stdout + verdict.stderr
    assert "valid" in (verdict.stdout + verdict.stderr).lower()


def test_a_wrong_key_would_be_found(distribution: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "user-data"
    wrong.write_text("#cloud-config\nwrite_files:\n- pfad: /etc/x\n")

    assert validate(distribution, wrong).returncode != 0
