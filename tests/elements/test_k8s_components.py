# SPDX-License-Identifier: Apache-2.0
"""What do the elements that install Kubernetes' components do to the root?"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kubekiln.errors import CommandFailed
from tests.support.elements import FakeBuild

pytestmark = pytest.mark.processes("bash", "unshare")


@pytest.fixture
def build(tmp_path: Path) -> FakeBuild:
    return FakeBuild(tmp_path)


def test_programs_of_the_components_are_installed_executable(build: FakeBuild) -> None:
    programs = ("kube-proxy", "kubectl", "kubelet")
    build.use("k8s-components", "k8s-node")
    components = build.directory / "components"
    for name in ("coredns/coredns", *(f"kubernetes/{n}" for n in (*programs, "kubeadm"))):
        (components / name).parent.mkdir(parents=True, exist_ok=True)
        (components / name).write_text(name)
    build.environment = {"DIB_K8S_COMPONENTS_DIR": str(components)}
    build.fake("install", 'exec /usr/bin/install $(echo "$@" | sed "s/-o 0 -g 0//")')

    build.run_outside("extra-data.d/50-k8s-node")

    assert build.files() == {f"usr/local/bin/{n}" for n in ("coredns", *programs)}
    assert (build.root / "usr/local/bin/kubelet").stat().st_mode & 0o777 == 0o755


def test_a_program_that_was_not_fetched_ends_the_bake(build: FakeBuild) -> None:
    build.use("k8s-components", "k8s-node")
    build.environment = {"DIB_K8S_COMPONENTS_DIR": str(build.directory)}

    with pytest.raises(CommandFailed, match="no coredns/coredns in DIB_K8S_COMPONENTS_DIR"):
        build.run_outside("extra-data.d/50-k8s-node")


def test_containerd_knows_which_image_is_that_of_the_sandboxes(build: FakeBuild) -> None:
    build.use("k8s-components", "k8s-containerd")
    build.environment = {"DIB_K8S_CONTAINERD_SANDBOX_IMAGE": "registry.k8s.io/pause:1"}
    (build.hooks / "k8s-components/install").write_text("#!/bin/sh\necho $*\n")
    (build.root / "etc/containerd/conf.d").mkdir(parents=True)

    told = build.run_outside("extra-data.d/50-k8s-containerd").text

    assert told.split()[0] == "/usr/local/bin"
    assert "runc/runc" in told
    config = tomllib.loads((build.root / "etc/containerd/conf.d/10-sandbox-image.toml").read_text())
    pinned = config["plugins"]["io.containerd.cri.v1.images"]["pinned_images"]
    assert pinned == {"sandbox": "registry.k8s.io/pause:1"}


def test_container_images_are_loaded_by_the_pinned_containerd_and_all_are_pinned(
    build: FakeBuild,
) -> None:
    build.use("k8s-components", "k8s-containerd", "k8s-images")
    build.environment = {
        "DIB_K8S_IMAGES": "/a.tar /b.tar",
        "DIB_K8S_IMAGES_HOST_DIR": str(build.commands),
    }
    build.fake("containerd", "exec tail -f /dev/null")
    build.fake("ctr", 'case "$*" in *"images list --quiet") echo pause:1 dns:1 ;; esac')
    named = build.put("var/lib/containerd/io.containerd.grpc.v1.introspection/uuid", "its own")

    build.run_outside("post-root.d/50-k8s-images")

    assert not named.exists(), "a containerd's name for itself is in every machine"

    # containerd runs beside them: when it notes its start is its own affair.
    said = [line.partition("--namespace k8s.io ")[2] for line in build.log() if line[:4] == "ctr "]
    how = "images import --local --discard-unpacked-layers --platform linux/amd64"
    assert said[-7:] == [
        f"{how} --snapshotter overlayfs /a.tar",
        f"{how} --snapshotter overlayfs /b.tar",
        "images list --quiet",
        "images label pause:1 io.cri-containerd.pinned=pinned",
        "images label dns:1 io.cri-containerd.pinned=pinned",
        "leases create --id k8s-images",
        "leases delete --sync k8s-images",
    ]


def test_a_program_that_is_also_in_a_container_image_is_stored_once(build: FakeBuild) -> None:
    build.use("k8s-images")
    snapshots = "var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    build.put("usr/local/bin/coredns", "program", mode=0o755)
    build.put("usr/local/bin/kubelet", "agent", mode=0o755)
    build.put("usr/local/bin/pause", "installed", mode=0o755)
    unpacked = build.put(f"{snapshots}/2/fs/coredns", "program", mode=0o755)
    build.put(f"{snapshots}/1/fs/pause", "another", mode=0o755)

    build.run_outside("post-root.d/60-k8s-images-link")

    assert (build.root / "usr/local/bin/coredns").samefile(unpacked)
    assert unpacked.stat().st_nlink == 2
    assert (build.root / "usr/local/bin/kubelet").read_text() == "agent"
    assert (build.root / "usr/local/bin/pause").read_text() == "installed"
