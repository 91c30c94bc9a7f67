# SPDX-License-Identifier: Apache-2.0
"""Does the build host's own cloud-init find the user-data of every role valid?

Its package is unpacked, never installed: installed, it would configure this host at its next boot.
What it can't judge yet (network-config: since 24.1) and the image's own version read at each boot.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from cloudinit.render import render_cluster
from cloudinit.rules import load_cluster
from kubekiln.process import find_tool
from tests.support.clusters import CONFIGS, make_project
from tests.support.debs import call, unpack

pytestmark = pytest.mark.network
EXAMPLES = sorted(path.stem for path in (CONFIGS / "clusters").glob("*.yaml"))


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the unpacked package of cloud-init and the Python packages it needs."""
    if find_tool("apt-cache") is None:
        pytest.skip("this host has no apt to get cloud-init with")
    needed = call(
        "apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts",
        "--no-breaks", "--no-replaces", "--no-enhances", "cloud-init",
    )  # fmt: skip
    packages = sorted(set(re.findall(r"^(python3-\S+)$", needed, re.MULTILINE)))
    packages = [p for p in packages if p not in ("python3-minimal", "python3-distutils")]
    return unpack(["cloud-init", *packages], tmp_path_factory.mktemp("cloud-init"))


def validate(distribution: Path, path: Path) -> subprocess.CompletedProcess[str]:
    # The distribution's Python with its own packages first: our `cloudinit` isn't theirs.
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    env["PYTHONPATH"] = str(distribution / "usr/lib/python3/dist-packages")
    program = distribution / "usr/bin/cloud-init"
    argv = ["/usr/bin/python3", program, "schema", "--config-file", path]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", EXAMPLES)
def test_user_data_is_valid(distribution: Path, tmp_path: Path, name: str) -> None:
    project = make_project(tmp_path)
    rendered = render_cluster(load_cluster(name, project), project=project)
    # One of each kind: the nodes of a role differ in names, addresses and keys.
    one_of = {node.role: node.user_data for node in rendered.nodes}
    one_of |= {f"pool {pool.name}": pool.user_data for pool in rendered.pools}

    for role, user_data in one_of.items():
        verdict = validate(distribution, user_data)

        assert verdict.returncode == 0, f"{role}: {verdict.stdout}{verdict.stderr}"
        assert "valid" in (verdict.stdout + verdict.stderr).lower(), role


def test_a_wrong_key_would_be_found(distribution: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "user-data"
    wrong.write_text("#cloud-config\nwrite_files:\n- pfad: /etc/x\n")

    assert validate(distribution, wrong).returncode != 0
