# SPDX-License-Identifier: Apache-2.0
"""Does systemd take the units without a word, and do they keep the rules of docs/node.md?"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from cloudinit.networkmodel import NODE_LOCAL_DNS
from tests.conftest import ROOT
from tests.support.units import CIS_APISERVER, CIS_CONTROLLER_MANAGER, CIS_ETCD, verify

PLACE = ROOT / "cloudinit" / "units"
COMMON = sorted(PLACE.glob("*.service"))
# Each is there instead of the unit of its name.
INSTEAD = sorted(PLACE.glob("*/*.service"))
UNITS = [*COMMON, *INSTEAD]
# Units that are started under another name as well.
COPIES = {"etcd-events.service": "etcd.service"}
SIZED = "$SIZE_FLAGS"
IDS = [str(unit.relative_to(PLACE)) for unit in UNITS]
IMAGE_UNITS = ROOT / "elements" / "k8s-node-runtime" / "static" / "usr/lib/systemd/system"
IN_IMAGE = [u for u in sorted(ROOT.glob("elements/*/static/**/*.service")) if u.is_file()]
# What belongs to systemd itself or comes with the image's packages.
_STUBS = (
    "basic.target", "containerd.service", "multi-user.target", "network-online.target",
    "network.target", "shutdown.target", "sysinit.target",
)  # fmt: skip


def read(unit: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text().replace("\\\n", " "))
    return parser


def flags(unit: Path) -> list[str]:
    return flags_of(unit.read_text())


def flags_of(text: str) -> list[str]:
    command = text.partition("\nExecStart=")[2]
    lines = []
    for line in command.splitlines():
        lines.append(line.strip().removesuffix("\\").strip())
        if not line.endswith("\\"):
            break
    return lines[1:]


# What a pool's machines have beside a unit.
DROPINS = sorted((ROOT / "cloudinit/templates/etc/systemd/system").glob("*.service.d/10-pool.conf"))


def plant_root(root: Path, units: list[Path], *, copies: bool = False) -> None:
    system = root / "etc/systemd/system"
    system.mkdir(parents=True)
    shipped = root / "usr/lib/systemd/system"
    shipped.mkdir(parents=True)
    for unit in units:
        (system / unit.name).write_bytes(unit.read_bytes())
    for name, of in COPIES.items() if copies else ():
        (system / name).write_bytes((system / of).read_bytes())
    (shipped / "kubekiln.target").write_bytes((IMAGE_UNITS / "kubekiln.target").read_bytes())
    for name in _STUBS:
        service = "[Service]\nExecStart=/usr/bin/stub\n" if name.endswith(".service") else ""
        (shipped / name).write_text(f"[Unit]\nDescription=stub\nDefaultDependencies=no\n{service}")
    programs = {"/usr/bin/stub"}
    for unit in units:
        programs |= set(re.findall(r"^Exec\w+=[-+]?(\S+)", unit.read_text(), re.MULTILINE))
    for program in programs:
        path = root / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/true\n")
        path.chmod(0o755)


@pytest.mark.processes("systemd-analyze")
@pytest.mark.parametrize("instead", [[], INSTEAD], ids=["systemd", "kubeadm"])
def test_systemd_has_nothing_to_say_of_the_units(instead: list[Path], tmp_path: Path) -> None:
    units = list({unit.name: unit for unit in (*COMMON, *instead)}.values())
    plant_root(tmp_path, units, copies=True)

    assert len(units) >= 9
    assert verify(tmp_path, [*(unit.name for unit in units), *COPIES]) == ""


@pytest.mark.processes("systemd-analyze")
def test_systemd_has_nothing_to_say_of_the_units_of_a_pool(tmp_path: Path) -> None:
    plant_root(tmp_path, UNITS)
    for dropin in DROPINS:
        place = tmp_path / "etc/systemd/system" / dropin.parent.name
        place.mkdir()
        (place / dropin.name).write_bytes(dropin.read_bytes())

    assert len(DROPINS) == 3
    assert verify(tmp_path, IDS) == ""


def test_the_kubelet_of_a_pool_is_started_as_any_but_for_its_first_certificate() -> None:
    unit = next(u for u in UNITS if u.name == "kubelet.service")
    dropin = next(d for d in DROPINS if d.parent.name == "kubelet.service.d")
    text = dropin.read_text().replace("\nExecStart=\n", "\n")
    dropin_flags = flags_of(text)

    assert set(dropin_flags) - set(flags(unit)) == {
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf"
    }
    assert set(flags(unit)) <= set(dropin_flags)


@pytest.mark.processes("systemd-analyze")
def test_systemd_would_have_something_to_say_of_a_wrong_unit(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.service"
    wrong.write_text("[Unit]\nDescription=x\n[Service]\nExecStart=/usr/bin/x\nRestrat=always\n")
    plant_root(tmp_path / "root", [wrong])

    assert "Restrat" in verify(tmp_path / "root", ["wrong.service"])


@pytest.mark.parametrize(
    "name",
    ["etcd", "haproxy", "keepalived", "kube-apiserver", "kubelet", "kubeadm/kubelet"],
)
def test_who_talks_to_other_machines_ends_before_the_address_goes(name: str) -> None:
    unit = read(PLACE / f"{name}.service")

    assert "network.target" in unit["Unit"]["After"].split()


@pytest.mark.parametrize("unit", UNITS, ids=IDS)
def test_a_unit_is_tried_for_ever_at_a_bounded_rate(unit: Path) -> None:
    parsed = read(unit)

    assert parsed["Unit"]["StartLimitIntervalSec"] == "0"
    assert parsed["Service"]["RestartSec"] == "1"
    oneshot = parsed["Service"].get("Type") == "oneshot"
    assert parsed["Service"]["Restart"] == ("on-failure" if oneshot else "always")


def test_a_unit_of_the_image_that_is_restarted_is_so_for_ever() -> None:
    parsed = {u.name: read(u) for u in IN_IMAGE}
    restarted = {
        name for name, unit in parsed.items() if unit.get("Service", "Restart", fallback="")
    }

    assert {"containerd.service", "kubekiln-cni.service"} <= restarted
    assert [
        name
        for name in sorted(restarted)
        if parsed[name].get("Unit", "StartLimitIntervalSec", fallback="") != "0"
        or not parsed[name].has_option("Service", "RestartSec")
    ] == []


@pytest.mark.parametrize("unit", UNITS, ids=IDS)
def test_a_unit_stops_with_the_role_and_requires_nothing(unit: Path) -> None:
    parsed = read(unit)

    assert parsed["Unit"]["PartOf"] == "kubekiln.target"
    assert not {"Requires", "BindsTo", "Requisite"} & set(parsed["Unit"])
    assert "Install" not in parsed
    assert "service" not in parsed["Unit"]["Description"].lower().split()[-1:]


@pytest.mark.parametrize("unit", UNITS, ids=IDS)
def test_flags_stand_one_a_line_in_alphabetical_order(unit: Path) -> None:
    found = [line.split("=")[0] for line in flags(unit) if line.startswith("--")]

    # --config before --config-dir: by name, not by the character after it.
    assert found == sorted(found)
    # A variable without braces stands for as many flags as the cluster needs.
    assert all(re.fullmatch(r"--[a-z-]+(=\S+)?|\$[A-Z_]+", line) for line in flags(unit))
    assert SIZED not in flags(unit)[:-1], "flags of the cluster's size come last"


def test_units_hold_nothing_that_differs_by_cluster() -> None:
    for unit in UNITS:
        text = unit.read_text()
        addresses = set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text))
        assert addresses <= {"127.0.0.1", str(NODE_LOCAL_DNS)}, unit.name
        for variable in re.findall(r"\$\{(\w+)\}", text):
            assert "EnvironmentFile=" in text, f"{unit.name} uses {variable}"


def test_haproxy_may_have_a_port_such_as_443_and_no_other_right() -> None:
    service = read(PLACE / "haproxy.service")["Service"]

    assert service["User"] == "haproxy"
    assert service["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    assert service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"


def test_etcd_has_what_kubeadm_gives_it() -> None:
    # kubeadm 1.37, phases/etcd/local.go; all else there is in the unit or in its environment.
    assert {
        "--feature-gates=InitialCorruptCheck=true", "--watch-progress-notify-interval=1m"
    } <= set(flags(PLACE / "etcd.service"))  # fmt: skip


def test_cis_flags_of_the_control_plane_are_on_the_command_lines() -> None:
    for name, wanted in {
        "kube-apiserver.service": CIS_APISERVER,
        "kube-controller-manager.service": CIS_CONTROLLER_MANAGER,
        "kube-scheduler.service": {"--profiling=false", "--bind-address=127.0.0.1"},
        "etcd.service": CIS_ETCD,
    }.items():
        present = set(flags(PLACE / name))
        names = {line.split("=")[0] for line in present}
        assert {w for w in wanted if w not in present and w not in names} == set(), name
