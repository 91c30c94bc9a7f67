# SPDX-License-Identifier: Apache-2.0
"""Does flannel's lease become the CNI configuration that pods' networks are made by?"""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import PROGRAMS_DIR

LEASE = {
    "FLANNEL_NETWORK": "10.244.0.0/16",
    "FLANNEL_SUBNET": "10.244.3.1/24",
    "FLANNEL_MTU": "1450",
    "FLANNEL_IPMASQ": "true",
}


def render_cni(tmp_path: Path, lease: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = tmp_path / "subnet.env"
    env.write_text("".join(f"{key}={value}\n" for key, value in lease.items()))
    return subprocess.run(
        ["sh", PROGRAMS_DIR / "cni-conf", env, tmp_path / "net.d", tmp_path / "net"],
        capture_output=True,
        text=True,
        check=False,
    )


def rendered(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "net.d/10-flannel.conflist").read_text())
    return found


@pytest.mark.processes("sh")
def test_the_lease_becomes_a_bridge_network(tmp_path: Path) -> None:
    assert render_cni(tmp_path, LEASE).returncode == 0

    bridge, portmap = rendered(tmp_path)["plugins"]
    assert rendered(tmp_path)["cniVersion"] == "1.0.0"
    assert (bridge["type"], bridge["bridge"], bridge["mtu"]) == ("bridge", "cni0", 1450)
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.244.3.0/24", "gateway": "10.244.3.1"}]]
    # The bridge plugin adds the default route; named here as well, it would fail on the second.
    assert bridge["isDefaultGateway"] is True
    assert "routes" not in bridge["ipam"]
    assert portmap == {"type": "portmap", "capabilities": {"portMappings": True}}


@pytest.mark.processes("sh")
@pytest.mark.parametrize(
    ("subnet", "network"),
    [
        ("10.244.0.129/25", "10.244.0.128/25"),
        ("10.244.4.1/22", "10.244.4.0/22"),
        ("192.168.255.241/28", "192.168.255.240/28"),
    ],
)
def test_any_prefix_gives_its_network(tmp_path: Path, subnet: str, network: str) -> None:
    assert render_cni(tmp_path, LEASE | {"FLANNEL_SUBNET": subnet}).returncode == 0
    assert rendered(tmp_path)["plugins"][0]["ipam"]["ranges"][0][0]["subnet"] == network


@pytest.mark.processes("sh")
@pytest.mark.parametrize(
    ("subnet", "network"),
    [
        ("fd00:10:244:3::1/64", "fd00:10:244:3::/64"),
        ("fd00:1:2:3:4:5:6:1/112", "fd00:1:2:3:4:5:6:0/112"),
        ("fd00:1:2:3:4:5:6:a01/120", "fd00:1:2:3:4:5:6:a00/120"),
        ("fd00::101/120", "fd00::100/120"),
        ("fd00::1/120", "fd00::/120"),
    ],
)
def test_dual_stack_gets_a_range_of_each(tmp_path: Path, subnet: str, network: str) -> None:
    assert render_cni(tmp_path, LEASE | {"FLANNEL_IPV6_SUBNET": subnet}).returncode == 0

    ipam = rendered(tmp_path)["plugins"][0]["ipam"]
    assert [item[0]["subnet"] for item in ipam["ranges"]] == ["10.244.3.0/24", network]


@pytest.mark.processes("sh")
def test_ipv6_alone_gets_a_range(tmp_path: Path) -> None:
    lease = {"FLANNEL_IPV6_SUBNET": "fd00:10:244:3::1/64", "FLANNEL_MTU": "1450"}

    assert render_cni(tmp_path, lease).returncode == 0

    ranges = rendered(tmp_path)["plugins"][0]["ipam"]["ranges"]
    assert ranges == [[{"subnet": "fd00:10:244:3::/64", "gateway": "fd00:10:244:3::1"}]]


@pytest.mark.processes("sh")
@pytest.mark.parametrize(
    ("device", "pods"),
    [("1430", 1430), ("8930", 1450), (None, 1450)],
    ids=["VXLAN over IPv6", "told less", "host-gw"],
)
def test_pods_packets_fit_what_flannels_device_takes(
    tmp_path: Path, device: str | None, pods: int
) -> None:
    if device is not None:
        (tmp_path / "net/flannel-v6.1").mkdir(parents=True)
        (tmp_path / "net/flannel-v6.1/mtu").write_text(f"{device}\n")

    assert render_cni(tmp_path, LEASE | {"FLANNEL_IPV6_SUBNET": "fd00::1/64"}).returncode == 0

    assert rendered(tmp_path)["plugins"][0]["mtu"] == pods


@pytest.mark.processes("sh")
def test_the_cni_file_is_private_and_alone(tmp_path: Path) -> None:
    render_cni(tmp_path, LEASE)
    render_cni(tmp_path, LEASE)

    files = list((tmp_path / "net.d").iterdir())
    assert [path.name for path in files] == ["10-flannel.conflist"]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600


@pytest.mark.processes("sh")
@pytest.mark.parametrize(
    "change",
    [
        {"FLANNEL_MTU": ""},
        {"FLANNEL_MTU": "1450; reboot"},
        {"FLANNEL_SUBNET": ""},
        {"FLANNEL_SUBNET": '10.0.0.1/24", "x'},
        {"FLANNEL_SUBNET": "$(reboot)"},
        {"FLANNEL_IPV6_SUBNET": "fd00::2/64"},
    ],
    ids=str,
)
def test_a_lease_that_makes_no_sense_renders_nothing(
    tmp_path: Path, change: dict[str, str]
) -> None:
    done = render_cni(tmp_path, LEASE | change)

    assert done.returncode == 1
    assert "cni-conf: " in done.stderr
    assert not (tmp_path / "net.d/10-flannel.conflist").exists()
