# SPDX-License-Identifier: Apache-2.0
"""Networks that no cluster can have, and what is said of each.

Each case is the changes that make a good cluster such, and a part of the message.
"""

from __future__ import annotations

from typing import Any

from tests.support.clusters import dual, masters, node

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a static address where the platform gives the network": (
        {"datasource": "ec2"},
        "addressing static with datasource ec2",
    ),
    "a virtual address where none can move": (
        {
            "datasource": "ec2",
            "network": {"addressing": "dhcp"},
            "api": {"vip": "10.80.0.10"},
            **masters("master", "master", "master"),
        },
        "a virtual address with datasource ec2",
    ),
    "a virtual address in a network of routes": (
        {
            "datasource": "hetzner",
            "network": {"addressing": "dhcp"},
            "api": {"vip": "10.80.0.10"},
            **masters("master", "master", "master"),
        },
        "a virtual address with datasource hetzner",
    ),
    **{
        f"host-gw with {datasource}": (
            {
                "datasource": datasource,
                "network": {"addressing": "dhcp", "flannel": {"backend": "host-gw"}},
            },
            f"backend host-gw with datasource {datasource}: the network of",
        )
        for datasource in ("azure", "gce", "hetzner")
    },
    "pods overlap nodes": ({"network": {"pod_cidr": "10.80.0.0/16"}}, "pod_cidr 10.80.0.0/16 over"),
    "services overlap pods": (
        {"network": {"service_cidr": "10.244.128.0/20"}},
        "service_cidr 10.244.128.0/20 overlaps pod_cidr 10.244.0.0/16",
    ),
    "a time server's name, and nobody to ask for it": (
        {"network": {"nameservers": [], "ntp_servers": ["time.example.org"]}},
        "no name server could tell the address of time.example.org",
    ),
    "a time server that is many": (
        {"network": {"ntp_servers": ["*.example.org"]}},
        "no one server's name",
    ),
    "a time server of another family": (
        {"network": {"ntp_servers": ["fd00::1"]}},
        "ntp_servers fd00::1 is IPv6",
    ),
    "host bits": ({"network": {"pod_cidr": "10.200.0.1/16"}}, "did you mean 10.200.0.0/16?"),
    "no network": ({"network": {"pod_cidr": "ten"}}, "'ten' is not a network"),
    "a network of bits": ({"network": {"node_cidr": True}}, "True is not a network"),
    "an address of bits": ({"nodes": [node(address=5)]}, "5 is not an address"),
    "IPv6 pods": ({"network": {"pod_cidr": "fd00::/56"}}, "has IPv6, node_cidr 10.80.0.0/24 has"),
    "IPv6 node": ({"nodes": [node(address="fd00::1")]}, "has IPv6, node_cidr 10.80.0.0/24 has"),
    "no address": ({"nodes": [node(address="ten")]}, "'ten' is not an address"),
    "a zone": ({"nodes": [node(address="fe80::1%eth0")]}, "'fe80::1%eth0' is not an address"),
    "another order": (
        {
            "network": {"node_cidr": ["fd00:80::/64", "10.80.0.0/24"]},
            "nodes": [node(address=["10.80.0.12", "fd00:80::12"])],
        },
        "address 10.80.0.12,fd00:80::12 has IPv4 and IPv6, node_cidr fd00:80::/64,10.80.0.0/24 has "
        "IPv6 and IPv4",
    ),
    "one of two": (dual(pod_cidr="10.244.0.0/16"), "pod_cidr 10.244.0.0/16 has IPv4, node_cidr"),
    "two of one": (
        {"network": {"node_cidr": ["10.80.0.0/24", "10.81.0.0/24"]}},
        "2 values, all or some of one family: IPv4 and IPv4",
    ),
    "a gateway of no use": ({"network": {"gateway": "fd00::1"}}, "gateway fd00::1 is IPv6, the no"),
    "a lease of IPv6": (dual(addressing="dhcp"), "dhcp gives IPv4, the nodes have IPv4 and IPv6"),
    "IPv6 where the platform gives the network": (
        {"datasource": "ec2", **dual()},
        "IPv6 needs a datasource that brings it: nocloud, vsphere",
    ),
    "IPv6 elsewhere": (
        dual(nodes=[node(address=["10.80.0.12", "fd00:81::12"])]),
        "address fd00:81::12 of lab-2 is not a host of node_cidr fd00:80::/64",
    ),
    "the routers' address": (
        dual(nodes=[node(address=["10.80.0.12", "fd00:80::"])]),
        "fd00:80:: of lab-2 is not a host",
    ),
    "IPv6 twice": (
        dual(nodes=[node(address=["10.80.0.12", "fd00:80::1"])]),
        "already that of the gateway",
    ),
    "IPv6 overlaps": (
        dual(pod_cidr=["10.244.0.0/16", "fd00:80::/56"]),
        "pod_cidr fd00:80::/56 overlaps node_cidr fd00:80::/64",
    ),
    "IPv6 host bits": (dual(pod_cidr=["10.244.0.0/16", "fd00::1/56"]), "did you mean fd00::/56?"),
    "too many IPv6 parts": (
        dual(pod_cidr=["10.244.0.0/16", "fd01::/40"]),
        "takes at most 16: a /48 or smaller",
    ),
    "IPv6 part too large": (
        dual(pod_cidr=["10.244.0.0/16", "fd01::/112"]),
        "node_mask_ipv6 64 is larger than the whole",
    ),
    "IPv6 pods too many": (
        dual(pod_cidr=["10.244.0.0/16", "fd01::/112"], node_mask_ipv6=120)
        | {"kubelet": {"max_pods": 255}},
        "more than the 254 addresses",
    ),
    "IPv6 services too many": (
        dual(service_cidr=["10.96.0.0/16", "fd02::/64"]),
        "fd02::/64 is not between /108 and /123",
    ),
    "IPv6 DNS outside": (dual(dns_ip="fd03::a"), "for example fd00:10:96::a"),
    "the gateway's": ({"nodes": [node(address="10.80.0.1")]}, "already that of the gateway"),
    "elsewhere": ({"nodes": [node(address="10.81.0.5")]}, "not a host of node_cidr 10.80.0.0/24"),
    "broadcast": ({"nodes": [node(address="10.80.0.255")]}, "not a host of node_cidr"),
    "gateway elsewhere": ({"network": {"gateway": "10.9.0.1"}}, "gateway 10.9.0.1 is not a host"),
    "DNS outside": ({"network": {"dns_ip": "10.97.0.10"}}, "not a free address of service_cidr"),
    "DNS is the API": ({"network": {"dns_ip": "10.96.0.1"}}, "for example 10.96.0.10"),
    "services too many": ({"network": {"service_cidr": "11.0.0.0/8"}}, "between /12 and /27"),
    "pod network too small": (
        {"network": {"pod_cidr": "10.244.0.0/25", "node_mask": 24}},
        "node_mask 24 is larger than the whole pod_cidr",
    ),
    "a port of nothing": (
        {"network": {"flannel": {"backend": "host-gw", "port": 8472}}},
        "host-gw wraps no packets",
    ),
    "an MTU that udp would ignore": (
        {"network": {"flannel": {"backend": "udp", "mtu": 1400}}},
        "mtu 1400 is given, but udp always takes the nodes' less 28 bytes",
    ),
    "IPv6 alone and host-gw": (
        {
            "network": {"node_cidr": "fd00:80::/64", "flannel": {"backend": "host-gw"}},
            "nodes": [node(address="fd00:80::11")],
        },
        "host-gw doesn't start on nodes without IPv4",
    ),
    "IPv6 through udp": (
        {
            "network": {
                "node_cidr": "fd00:80::/64",
                "gateway": "fd00:80::1",
                "flannel": {"backend": "udp"},
            },
            "nodes": [node(address="fd00:80::11", role="single")],
        },
        "udp carries IPv4 alone",
    ),
    "an IPv4 cache for IPv6 pods": (
        {
            "network": {"node_cidr": "fd00:80::/64", "gateway": "fd00:80::1", "dns_cache": True},
            "nodes": [node(address="fd00:80::11", role="single")],
        },
        "pods without IPv4 can't ask 169.254.20.10",
    ),
    "an MTU that host-gw would ignore": (
        {"network": {"flannel": {"backend": "host-gw", "mtu": 9000}}},
        "leave it out, or give network.mtu: 9000",
    ),
    "pods' packets too small for IPv6": (
        dual(flannel={"mtu": 1200}),
        "mtu 1200 is less than the 1280 bytes that every link of IPv4 and IPv6",
    ),
    "no room for VXLAN": (
        {"network": {"mtu": 1500, "flannel": {"mtu": 1480}}},
        "50 bytes of vxlan and 1480 of pods are more than the nodes' mtu 1500",
    ),
    "no room for VXLAN on usual cards": (
        {"network": {"flannel": {"mtu": 9000}}},
        "50 bytes of vxlan and 9000 of pods are more than the nodes' mtu 1500",
    ),
    "no room for pods": ({"network": {"mtu": 600}}, "give network.mtu: 626 or more"),
    "pod network too small for the plan": (
        {"planned_nodes": 300},
        "pod_cidr 10.244.0.0/16 has parts for 256 nodes of 300",
    ),
    "pods too many": ({"kubelet": {"max_pods": 500}}, "more than the 253 addresses"),
}
