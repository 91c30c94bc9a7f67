# SPDX-License-Identifier: Apache-2.0
"""Is a container machine started with what a Kubernetes node needs, and found again?"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.files import locked
from kubekiln.process import Command, run
from pipeline.targets import netns, nspawn, roots
from pipeline.targets.ports import check_port
from tests.support.machines import make_machine


def test_the_machine_gets_its_seed_read_only_where_nocloud_looks(tmp_path: Path) -> None:
    machine = make_machine(tmp_path)

    command = nspawn.nspawn_command(machine)

    assert f"--bind-ro={machine.seed_dir}:/var/lib/cloud/seed/nocloud" in command


def test_containerds_directory_is_no_overlay(tmp_path: Path) -> None:
    machine = make_machine(tmp_path)

    assert f"--bind={machine.run_dir / 'containerd'}:/var/lib/containerd" in (
        nspawn.nspawn_command(machine)
    )


def test_the_databases_disk_is_a_directory_that_is_mounted(tmp_path: Path) -> None:
    machine = make_machine(tmp_path)
    bind = f"--bind={machine.run_dir / 'etcd'}:/var/lib/etcd"

    assert bind not in nspawn.nspawn_command(machine)
    assert bind in nspawn.nspawn_command(replace(machine, etcd_disk_gib=8))


@pytest.mark.parametrize("is_there", [True, False])
def test_the_machine_gets_tun_if_this_host_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    tun = tmp_path / "tun"
    if is_there:
        tun.touch()
    monkeypatch.setattr(nspawn, "TUN", tun)

    command = nspawn.nspawn_command(make_machine(tmp_path))

    assert (f"--bind={tun}" in command) is is_there


@pytest.mark.processes("bash")
def test_unpacked_images_are_shared_and_what_containerd_writes_is_not(tmp_path: Path) -> None:
    names = ("snapshots/1/fs/tool", "metadata.db")
    shared, own = (Path("io.containerd.snapshotter.v1.overlayfs") / name for name in names)
    other = Path("io.containerd.metadata.v1.bolt/meta.db")
    for name in (shared, own, other):
        (tmp_path / "image" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "image" / name).write_text(name.name)

    run(Command(["bash", nspawn.COPY_CONTAINERD, tmp_path / "image", tmp_path / "own"]))

    assert {p.name for p in (tmp_path / "own").rglob("*") if p.is_file()} == {
        "tool", "metadata.db", "meta.db"
    }  # fmt: skip
    assert (tmp_path / "own" / shared).samefile(tmp_path / "image" / shared)
    assert not (tmp_path / "own" / own).samefile(tmp_path / "image" / own)
    assert not (tmp_path / "own" / other).samefile(tmp_path / "image" / other)


@pytest.mark.processes("bash")
def test_an_image_without_container_images_gives_an_empty_directory(tmp_path: Path) -> None:
    run(Command(["bash", nspawn.COPY_CONTAINERD, tmp_path / "none", tmp_path / "own"]))

    assert list((tmp_path / "own").iterdir()) == []


def test_the_process_carries_the_run_directory_by_which_it_is_found(tmp_path: Path) -> None:
    machine = make_machine(tmp_path)

    command = nspawn.start_command(machine, tmp_path / "root", 123)

    assert machine.run_dir in command
    assert nspawn.SCRIPT in command
    assert "10.80.0.11:6443" in command


def test_under_systemd_the_machine_is_a_unit_with_its_own_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(tmp_path)
    monkeypatch.setattr(nspawn, "SYSTEMD", tmp_path)

    command = nspawn.start_command(machine, tmp_path, 1)

    assert command[0] == "systemd-run"
    assert "--property=Delegate=yes" in command


def test_the_hosts_end_of_the_cable_fits_the_kernels_limit(tmp_path: Path) -> None:
    one = make_machine(tmp_path, name="a" * 60)
    other = make_machine(tmp_path, run_dir=tmp_path / "elsewhere")

    assert len(nspawn.cable_name(one)) <= 15
    assert nspawn.cable_name(one) != nspawn.cable_name(other)


def test_the_bridge_has_the_gateways_address(tmp_path: Path) -> None:
    assert list(map(str, netns.gateway_interfaces(make_machine(tmp_path)))) == ["10.80.0.1/24"]


BOTH: dict[str, Any] = {
    "addresses": (ip_interface("10.80.0.11/24"), ip_interface("fd00:80::11/64")),
    "gateways": (ip_address("10.80.0.1"), ip_address("fd00:80::1")),
}


def test_a_network_of_two_families_has_a_gateway_of_each(tmp_path: Path) -> None:
    command = netns.network_command(make_machine(tmp_path, **BOTH))

    assert command[-2:] == ["10.80.0.1/24", "fd00:80::1/64"]


def test_the_way_to_the_api_of_an_ipv6_machine_has_no_brackets(tmp_path: Path) -> None:
    machine = make_machine(tmp_path, addresses=BOTH["addresses"][1:], gateways=BOTH["gateways"][1:])

    assert "fd00:80::11:6443" in nspawn.start_command(machine, tmp_path, 1)


def test_a_network_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KubekilnError, match="is gone"):
        netns.network_pid(tmp_path)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]

        with pytest.raises(KubekilnError, match=f"port {port} .* is taken"):
            check_port(port, "lab-1")

    check_port(port, "lab-1")


def test_roots_are_unpacked_with_owners_and_capabilities(tmp_path: Path) -> None:
    command = roots.unpack_command(tmp_path / "root.tar", tmp_path / "half")

    assert command.as_root
    assert {"--numeric-owner", "--xattrs-include=*", "--same-permissions"} <= set(command.argv)


@pytest.mark.processes("rm", "sudo")
def test_only_roots_on_which_no_machine_runs_are_removed(tmp_path: Path) -> None:
    for age, name in enumerate(("old", "used", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.lock").touch()
        os.utime(tmp_path / name, (age, age))

    with locked(tmp_path / "used.lock", shared=True):
        roots.remove_unused(tmp_path, keep="next")

    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["new", "used"]
