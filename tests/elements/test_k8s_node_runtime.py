# SPDX-License-Identifier: Apache-2.0
"""Are the node runtime's shell programs, units and element scripts what they claim to be?"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from kubekiln.channel import KEY_CREDENTIAL
from tests.support.node_runtime import ELEMENT_DIR, PROGRAMS_DIR, STATIC_DIR

UNITS_DIR = STATIC_DIR / "usr/lib/systemd/system"
UNITS = sorted(path for path in UNITS_DIR.iterdir() if path.is_file())
# What isn't started by its name but read by another program.
READ = {"metadata.nft"}
PROGRAMS = sorted(p for p in PROGRAMS_DIR.iterdir() if p.is_file() and p.name not in READ)


def fake_commands(tmp_path: Path, **outputs: str) -> Path:
    """Make commands that log their arguments and print what is given."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, output in outputs.items():
        path = directory / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/argv\nprintf %s "{output}"\n')
        path.chmod(0o755)
    return directory


def run_faked(tmp_path: Path, bin_dir: Path, *argv: Path | str) -> list[str]:
    path = f"{bin_dir}:{os.environ['PATH']}"
    subprocess.run(argv, check=True, env={"PATH": path}, capture_output=True)
    return (tmp_path / "argv").read_text().splitlines()


@pytest.mark.processes("sh")
@pytest.mark.parametrize("cgroup", ["tmpfs", "cgroup2fs"])
def test_only_cgroup_v1_takes_the_cgroups_from_systemd(tmp_path: Path, cgroup: str) -> None:
    bin_dir = fake_commands(tmp_path, mount="", mountpoint="", ln="", stat=cgroup)

    setup = PROGRAMS_DIR / "container-setup"
    log = run_faked(tmp_path, bin_dir, "sh", setup, tmp_path / "run", tmp_path / "sys")

    kubelet = yaml.safe_load((tmp_path / "run/kubelet.conf.d/50-container.conf").read_text())
    containerd = tomllib.loads((tmp_path / "run/containerd.d/50-container.toml").read_text())
    runtime = containerd["plugins"]["io.containerd.cri.v1.runtime"]
    assert kubelet["kind"] == "KubeletConfiguration"
    assert kubelet["oomScoreAdj"] == 0
    assert (tmp_path / "run/kubeadm.env").read_text() == (
        "IGNORE_PREFLIGHT_ERRORS=SystemVerification\n"
    )
    is_v1 = cgroup == "tmpfs"
    assert (kubelet.get("cgroupDriver") == "cgroupfs") is is_v1
    assert (kubelet.get("failCgroupV1") is False) is is_v1
    runc = {"containerd": {"runtimes": {"runc": {"options": {"SystemdCgroup": False}}}}}
    assert runtime == {"restrict_oom_score_adj": True} | (runc if is_v1 else {})
    assert "mount --make-rshared /" in log


@pytest.mark.processes("sh")
def test_a_container_writes_no_setting_of_its_host(tmp_path: Path) -> None:
    bin_dir = fake_commands(tmp_path, mount="", mountpoint="", ln="", stat="cgroup2fs")
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/panic").write_text("1\n")

    setup = PROGRAMS_DIR / "container-setup"
    log = run_faked(tmp_path, bin_dir, "sh", setup, tmp_path / "run", tmp_path / "sys")

    shown = tmp_path / "run/sysctl/kernel/panic"
    assert shown.read_text() == "10\n"
    assert f"mount --bind {shown} {tmp_path}/sys/kernel/panic" in log
    assert [line for line in log if "rw" in line and "cgroup" not in line] == [
        f"mount -o remount,bind,rw {tmp_path}/sys/net"
    ]


@pytest.mark.processes("bash")
def test_the_element_compiles_the_programs_the_same_way_each_time(tmp_path: Path) -> None:
    bin_dir = fake_commands(tmp_path, find="", python3="")

    log = run_faked(tmp_path, bin_dir, "bash", ELEMENT_DIR / "post-install.d/50-k8s-node-runtime")

    assert log == [
        "find /usr/lib/kubekiln -name __pycache__ -prune -exec rm -rf {} +",
        "python3 -m compileall -q --invalidation-mode unchecked-hash"
        " /usr/lib/kubekiln/kubekiln_node",
    ]


@pytest.mark.processes("systemd-analyze")
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(STATIC_DIR, root)
    (root / "usr/sbin").mkdir()
    (root / "usr/sbin/nft").touch(mode=0o755)
    assert UNITS

    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", *[u.name for u in UNITS]],
        capture_output=True,
        text=True,
        check=False,
    )

    said = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        # The distribution's own units aren't in this root.
        if ("not found" not in line or "kubekiln" in line.split(":")[-1])
        # Of systemd 254; the image's is 257, the host's may be older.
        and "Unknown key 'RestartMode'" not in line
    ]
    assert said == []


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS_DIR / name).read_text())
    return parser


def test_nothing_but_activation_starts_the_role() -> None:
    assert not unit("kubekiln.target").has_section("Install")
    for path in UNITS:
        assert "kubekiln.target" not in unit(path.name).get("Install", "WantedBy", fallback="")


def test_the_gate_comes_after_cloud_inits_network_stage_without_needing_it() -> None:
    gate = unit("kubekiln-activate.service")["Unit"]

    assert "cloud-init-network.service" in gate["After"]
    assert "Requires" not in gate
    assert "Wants" not in gate


def test_the_gate_is_given_the_machines_key_and_the_image_can_use_it() -> None:
    service = unit("kubekiln-activate.service")["Service"]
    packages = yaml.safe_load((ELEMENT_DIR / "package-installs.yaml").read_text())

    assert service["LoadCredential"] == KEY_CREDENTIAL
    assert "age" in packages


def test_the_metadata_address_is_closed_before_the_first_pod_and_tried_for_ever() -> None:
    closing = unit("kubekiln-metadata.service")

    assert {"kubelet.service", "kubekiln-kubeadm.service"} <= set(closing["Unit"]["Before"].split())
    assert closing["Unit"]["StartLimitIntervalSec"] == "0"
    assert (closing["Service"]["Restart"], closing["Service"]["RestartSec"]) == ("on-failure", "1")
    assert closing["Service"]["RestartMode"] == "direct", "the kubelet waits meanwhile"
    assert closing["Service"]["ExecStart"].endswith(" /usr/lib/kubekiln/metadata.nft")
    assert not closing.has_section("Install"), "the role starts it, or doesn't"


def test_only_what_is_forwarded_is_kept_from_the_metadata_address() -> None:
    rules = (PROGRAMS_DIR / "metadata.nft").read_text()
    code = re.sub(r"#.*", "", rules)

    assert re.findall(r"hook (\w+)", code) == ["forward"]
    assert {"169.254.169.254", "fd00:ec2::254", "fd00:a9fe:a9fe::1"} <= set(
        re.findall(r"[0-9a-f:.]{7,}", code)
    )
    assert set(re.findall(r"table inet (\S+)", code)) == {"kubekiln-metadata"}
    assert "flush ruleset" not in code


def test_container_set_up_is_for_containers_only() -> None:
    assert unit("kubekiln-container.service")["Unit"]["ConditionVirtualization"] == "container"


def test_every_program_that_a_unit_starts_is_there_and_executable() -> None:
    started = {
        unit(path.name)["Service"]["ExecStart"].split()[0]
        for path in UNITS
        if path.suffix == ".service"
    }

    ours = {program for program in started if program.startswith("/usr/lib/kubekiln/")}
    assert ours
    # Of packages that k8s-base asks for.
    assert started - ours == {"/usr/sbin/nft"}
    for program in ours:
        path = STATIC_DIR / program.lstrip("/")
        assert os.access(path, os.X_OK), program


def test_every_program_is_executable_and_names_its_interpreter() -> None:
    assert len(PROGRAMS) >= 6
    for path in PROGRAMS:
        assert os.access(path, os.X_OK), path
        first = path.read_text().splitlines()[0]
        assert re.fullmatch(r"#!(/bin/sh|/bin/bash|/usr/bin/python3 -EsS?)", first), path


@pytest.mark.processes("sh")
@pytest.mark.parametrize(
    ("members", "has_data", "has_mark", "asks"),
    [
        ("a=https://10.0.0.1:2380", False, False, False),
        ("a=https://10.0.0.1:2380", False, True, True),
        ("a=https://10.0.0.1:2380,b=https://10.0.0.2:2380", False, False, True),
        ("a=https://10.0.0.1:2380,b=https://10.0.0.2:2380", True, False, False),
    ],
)
def test_only_a_member_with_an_empty_disk_asks_the_others(
    tmp_path: Path, members: str, has_data: bool, has_mark: bool, asks: bool
) -> None:
    guard = (PROGRAMS_DIR / "etcd-guard").read_text()
    script = tmp_path / "etcd-guard"
    guard = guard.replace("/usr/lib/kubekiln/etcd-membership", "echo asked")
    script.write_text(guard.replace("/var/lib/", f"{tmp_path}/"))
    data, mark = tmp_path / "etcd-events", tmp_path / "kubekiln/etcd-events-member"
    if has_data:
        (data / "member").mkdir(parents=True)
    if has_mark:
        mark.parent.mkdir()
        mark.touch()

    done = subprocess.run(
        ["sh", script, data], env={"ETCD_INITIAL_CLUSTER": members, "PATH": "/bin:/usr/bin"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip

    assert done.stdout.startswith("asked") == asks
    assert mark.exists() == (has_data or has_mark)


@pytest.mark.processes("sh")
@pytest.mark.parametrize(("given", "wants"), [({}, False), ({"KUBEKILN_DISK": "u"}, True)])
def test_a_member_with_a_disk_of_its_own_has_it_before_anything_else(
    tmp_path: Path, given: dict[str, str], wants: bool
) -> None:
    guard = (PROGRAMS_DIR / "etcd-guard").read_text()
    script = tmp_path / "etcd-guard"
    guard = guard.replace("/usr/lib/kubekiln/etcd-disk", "exec echo disk")
    script.write_text(guard.replace("/var/lib/", f"{tmp_path}/"))

    done = subprocess.run(
        ["sh", script, tmp_path / "etcd"],
        env={**given, "KUBEKILN_DISK_GIB": "8", "PATH": "/bin:/usr/bin"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip

    assert done.stdout == (f"disk {tmp_path}/etcd u 8\n" if wants else "")


def test_the_preset_enables_what_can_be_enabled() -> None:
    preset = (STATIC_DIR / "usr/lib/systemd/system-preset/50-kubekiln.preset").read_text()
    enabled = {line.split()[1] for line in preset.splitlines() if line.startswith("enable ")}

    assert enabled == {p.name for p in UNITS if unit(p.name).has_section("Install")}


def test_no_bytecode_lies_in_the_static_tree() -> None:
    assert not list(STATIC_DIR.rglob("__pycache__"))
