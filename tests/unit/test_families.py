# SPDX-License-Identifier: Apache-2.0
"""Does everything on a node speak the families that its cluster has: IPv4, IPv6 or both?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from cloudinit.part import NodeFile
from cloudinit.rules import findings
from kubekiln.errors import KubekilnError
from kubekiln.operations.placement import check_target
from kubekiln.paths import Project
from pipeline.targets.qemu import QemuTarget
from tests.support.clusters import (
    make_cluster,
    make_project,
    only_ipv6,
    render_example,
    render_files,
    write_cluster,
)

MASTER, WORKER = "ds-master-1", "ds-worker-1"
Files = dict[str, NodeFile]


@pytest.fixture(scope="module")
def dual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """Both nodes of the example."""
    return render_example(tmp_path_factory.mktemp("dual"), "dual-stack")


@pytest.fixture(scope="module")
def ipv6(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """The same with IPv6 alone."""
    root = tmp_path_factory.mktemp("ipv6")
    config = example()
    only_ipv6(config)
    write_cluster(make_project(root), {**config, "name": "ipv6"}, "ipv6")
    return render_example(root, "ipv6")


def example() -> dict[str, Any]:
    path = Path(__file__).parents[2] / "configs/clusters/dual-stack.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def text(files: Files, path: str) -> str:
    return files[path].content.decode()


def settings(files: Files, path: str) -> dict[str, str]:
    lines = [line for line in text(files, path).splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_components_get_pairs_with_the_primary_family_first(dual: dict[str, Files]) -> None:
    master = dual[MASTER]

    api = settings(master, "/etc/kubernetes/kube-apiserver.env")
    manager = settings(master, "/etc/kubernetes/controller-manager.env")
    kubelet = settings(master, "/etc/kubernetes/kubelet.env")
    proxy = yaml.safe_load(text(master, "/etc/kubernetes/kube-proxy.yaml"))

    assert api["NODE_IP"] == "10.84.0.11"
    assert api["SERVICE_CIDR"] == manager["SERVICE_CIDR"] == "10.96.0.0/16,fd00:10:96::/112"
    assert manager["POD_CIDR"] == proxy["clusterCIDR"] == "10.244.0.0/16,fd00:10:244::/56"
    assert manager["NODE_MASKS"] == ("--node-cidr-mask-size-ipv4=24 --node-cidr-mask-size-ipv6=64")
    assert kubelet["NODE_IP"] == "10.84.0.11,fd00:84::11"


def test_ipv6_stands_in_brackets_before_a_port(ipv6: dict[str, Files]) -> None:
    master = ipv6[MASTER]

    etcd = settings(master, "/etc/etcd/etcd.env")

    assert etcd["ETCD_INITIAL_CLUSTER"] == "ds-master-1=https://[fd00:84::11]:2380"
    assert etcd["ETCD_LISTEN_CLIENT_URLS"] == "https://127.0.0.1:2379,https://[fd00:84::11]:2379"
    assert "server ds-master-1 [fd00:84::11]:6443" in text(ipv6[WORKER], "/etc/haproxy/haproxy.cfg")
    assert settings(master, "/etc/kubernetes/kubelet.env")["NODE_IP"] == "fd00:84::11"
    assert settings(master, "/etc/kubernetes/controller-manager.env")["NODE_MASKS"] == (
        "--node-cidr-mask-size-ipv6=64"
    )


def test_certificates_name_addresses_of_both_families(dual: dict[str, Files]) -> None:
    pem = dual[MASTER]["/etc/kubernetes/pki/apiserver.crt"].content
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )

    addresses = set(map(str, names.value.get_values_for_type(x509.IPAddress)))

    assert addresses == {
        "127.0.0.1", "::1", "10.84.0.11", "fd00:84::11", "10.84.0.10", "fd00:84::10", "10.96.0.1",
        "fd00:10:96::1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("which", "networks", "addresses"),
    [
        (
            "dual",
            {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:10:244::/56"},
            {"NODE_IP": "10.84.0.21", "FLANNELD_PUBLIC_IPV6": "fd00:84::21"},
        ),
        (
            "ipv6",
            {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:10:244::/56"},
            {"NODE_IP": "fd00:84::21"},
        ),
    ],
)
def test_flannel_knows_the_pod_network_of_each_family(
    which: str, networks: dict[str, Any], addresses: dict[str, str], request: Any
) -> None:
    worker = request.getfixturevalue(which)[WORKER]

    told = json.loads(text(worker, "/etc/flannel/net-conf.json"))
    environment = settings(worker, "/etc/flannel/flanneld.env")

    assert {k: v for k, v in told.items() if k not in ("Backend", "EnableNFTables")} == networks
    assert environment == {**addresses, "NODE_NAME": WORKER}


def test_flannel_finds_the_interface_by_ipv4_whichever_is_the_primary(tmp_path: Path) -> None:
    files = render_files(
        tmp_path,
        network={"node_cidr": ["fd00:80::/64", "10.80.0.0/24"]},
        nodes=[{"name": "lab-1", "role": "single", "address": ["fd00:80::11", "10.80.0.11"]}],
    )

    environment = settings(files, "/etc/flannel/flanneld.env")

    assert environment["NODE_IP"] == "10.80.0.11"
    assert environment["FLANNELD_PUBLIC_IPV6"] == "fd00:80::11"
    assert settings(files, "/etc/kubernetes/kubelet.env")["NODE_IP"] == "fd00:80::11,10.80.0.11"


def test_the_interface_has_addresses_and_routes_of_both(dual: dict[str, Files]) -> None:
    network = text(dual[WORKER], "/etc/systemd/network/05-kubekiln.network")

    assert {
        "Address=10.84.0.21/24", "Address=fd00:84::21/64", "Gateway=10.84.0.1",
        "Gateway=fd00:84::1", "LinkLocalAddressing=ipv6", "IPv6AcceptRA=false",
    } <= set(network.splitlines())  # fmt: skip


def test_an_ipv4_machine_has_no_address_of_ipv6(tmp_path: Path) -> None:
    network = text(render_files(tmp_path), "/etc/systemd/network/05-kubekiln.network")

    assert "LinkLocalAddressing=no" in network.splitlines()


def test_vrrp_speaks_one_family_and_moves_both_addresses(dual: dict[str, Files]) -> None:
    words = text(dual[MASTER], "/etc/keepalived/keepalived.conf").split()

    assert words[words.index("unicast_src_ip") + 1] == "10.84.0.11"
    assert words[words.index("virtual_ipaddress") + 2] == "10.84.0.10/32"
    assert words[words.index("virtual_ipaddress_excluded") + 2] == "fd00:84::10/128"


def test_an_ipv6_virtual_address_is_announced_by_ipv6(ipv6: dict[str, Files]) -> None:
    words = text(ipv6[MASTER], "/etc/keepalived/keepalived.conf").split()

    assert words[words.index("unicast_src_ip") + 1] == "fd00:84::11"
    assert words[words.index("virtual_ipaddress") + 2] == "fd00:84::10/128"
    assert "virtual_ipaddress_excluded" not in words


def test_a_kubelets_certificate_may_have_both_addresses(dual: dict[str, Files]) -> None:
    known = json.loads(text(dual[MASTER], "/etc/kubekiln/csr-approver.json"))["nodes"]

    assert known == {
        MASTER: ["10.84.0.11", "fd00:84::11"],
        WORKER: ["10.84.0.21", "fd00:84::21"],
    }


def test_the_name_service_has_both_addresses(dual: dict[str, Files]) -> None:
    documents = list(yaml.safe_load_all(text(dual[MASTER], "/etc/kubernetes/addons/coredns.yaml")))
    service = next(d["spec"] for d in documents if d["kind"] == "Service")

    assert service["clusterIP"] == "10.96.0.10"
    assert service["clusterIPs"] == ["10.96.0.10", "fd00:10:96::a"]
    assert service["ipFamilyPolicy"] == "PreferDualStack"


def test_a_single_node_has_its_part_of_both_pod_networks(tmp_path: Path) -> None:
    files = render_files(
        tmp_path,
        network={"node_cidr": ["10.80.0.0/24", "fd00:80::/64"]},
        nodes=[{"name": "lab-1", "role": "single", "address": ["10.80.0.11", "fd00:80::11"]}],
    )

    spec = yaml.safe_load(text(files, "/etc/kubernetes/bootstrap/10-node.yaml"))["spec"]

    assert spec == {
        "podCIDR": "10.244.0.0/24",
        "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"],
    }


def test_a_balancer_of_two_families_listens_on_both(tmp_path: Path) -> None:
    config = example()
    config["nodes"].append(
        {"name": "ds-lb-1", "role": "lb", "address": ["10.84.0.31", "fd00:84::31"]}
    )
    write_cluster(make_project(tmp_path), {**config, "name": "lb"}, "lb")

    balancer = render_example(tmp_path, "lb")["ds-lb-1"]

    assert "    bind [::]:6443 v4v6\n" in text(balancer, "/etc/haproxy/haproxy.cfg")


def test_addresses_by_which_a_target_leads_to_no_api_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QemuTarget, "problems", lambda _: [])
    ipv6 = make_cluster(
        network={"node_cidr": "fd00:80::/64", "gateway": None},
        nodes=[{"name": "lab-1", "role": "single", "address": "fd00:80::11"}],
    )

    with pytest.raises(KubekilnError) as error:
        check_target(QemuTarget(), Project(tmp_path), ipv6, tmp_path / "lab.yaml")

    said = str(error.value)
    assert "lab has addresses of IPv6 alone, by which target qemu lets nobody reach its API" in said


def test_an_ipv6_cluster_needs_no_more_words_than_an_ipv4_one() -> None:
    cluster = make_cluster(
        network={"node_cidr": "fd00:80::/64", "gateway": "fd00:80::1"},
        nodes=[{"name": "lab-1", "role": "single", "address": "fd00:80::11"}],
    )

    assert findings(cluster) == []
    assert str(cluster.network.pod_cidrs[0]) == "fd00:10:244::/56"
    assert str(cluster.network.cluster_dns[0]) == "fd00:10:96::a"
