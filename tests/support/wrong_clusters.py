# SPDX-License-Identifier: Apache-2.0
"""Clusters that can't be, but for their networks, and what is said of each.

Each case is the changes that make a good cluster such, and a part of the message.
"""

from __future__ import annotations

from typing import Any

from tests.support.clusters import cluster_data, masters, node

TWO = [*cluster_data()["nodes"], node()]


def worker_with(key: str, value: str) -> dict[str, Any]:
    """A cluster with a worker that has a label."""
    return {"nodes": [*masters("master")["nodes"], node(role="worker", labels={key: value})]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a server of no address in brackets": (
        {"userdata": {"protect": "url", "server": "https://[fd00::1::2]:8443"}},
        "is not https://HOST:PORT",
    ),
    "a server of IPv4 in brackets": (
        {"userdata": {"protect": "url", "server": "https://[10.80.0.5]:8443"}},
        "is not https://HOST:PORT",
    ),
    "a server of an address that is none": (
        {"userdata": {"protect": "url", "server": "https://10.80.0.256:8443"}},
        "is not https://HOST:PORT",
    ),
    "a server of a name with an empty label": (
        {"userdata": {"protect": "url", "server": "https://kiln..example:8443"}},
        "is not https://HOST:PORT",
    ),
    "two add-ons of one name": (
        {"addons": ["coredns", "./mine/coredns.yaml"]},
        "add-ons coredns and ./mine/coredns.yaml",
    ),
    "unknown key": ({"newtork": {}}, "did you mean 'network'?"),
    "unknown role": ({"nodes": [node(role="boss")]}, "'boss'"),
    "two names": ({"nodes": [*TWO[:1], node(name="lab-1")]}, "name lab-1 is already that of"),
    "two addresses": (
        {"nodes": [*TWO[:1], node(address="10.80.0.11")]},
        "address 10.80.0.11 is already that of node 1 (lab-1)",
    ),
    "two MACs": (
        {"nodes": [node(mac="52:54:00:00:00:01"), node(name="x", mac="52:54:00:00:00:01")]},
        "mac 52:54:00:00:00:01 is already",
    ),
    "capitals": ({"nodes": [node(name="Lab_2")]}, "RFC 1123"),
    "too long": ({"nodes": [node(name="a" * 64)]}, "RFC 1123"),
    "not quoted": ({"kubernetes": 1.37}, 'write "1.37"'),
    "unsupported": ({"kubernetes": "1.20.0"}, "kubernetes 1.20.0 is not supported"),
    "two singles": ({"nodes": TWO}, "has role single, but the cluster has 2 nodes"),
    "no nodes": ({"nodes": []}, "at least 1 item"),
    "no master": (masters("worker", "lb"), "no node has role single or master"),
    "two members": (masters("master", "master"), "etcd would have 2 members"),
    "no etcd with kubeadm": (
        masters("master", "etcd", bootstrap="kubeadm"),
        "has role etcd, which bootstrap: kubeadm does not know",
    ),
    "no pools with kubeadm": (
        masters(
            "master",
            bootstrap="kubeadm",
            pools=[{"name": "p", "addresses": "10.80.0.128/25", "max_nodes": 5}],
        ),
        "pools are not for clusters of bootstrap: kubeadm",
    ),
    "no disk of its own with kubeadm": (
        masters("master", bootstrap="kubeadm", etcd={"disk_gib": 8}),
        "a disk of its own for etcd is not for clusters of bootstrap: kubeadm",
    ),
    "no room for a copy of the database": (
        {"etcd": {"disk_gib": 8}},
        "give disk_gib: 9 or more, or quota_mib: 3584 or less",
    ),
    "no room for a copy of a large one": (
        {"etcd": {"disk_gib": 16, "quota_mib": 8192}},
        "disk_gib 16 has no room for a database of 8192 MiB (quota_mib)",
    ),
    "no room for any database": ({"etcd": {"disk_gib": 1}}, "hint: give disk_gib: 9 or more"),
    "no events apart with kubeadm": (
        masters("master", bootstrap="kubeadm", etcd={"events": True}),
        "which bootstrap: kubeadm does not know",
    ),
    "nine members": (masters("master", *["etcd"] * 9), "each of which must take every write"),
    "address elsewhere": (masters("master", api={"vip": "10.9.0.9"}), "vip 10.9.0.9 is not a host"),
    "a node's address": (masters("master", api={"vip": "10.80.0.20"}), "machine's own address"),
    "an address for one": ({"api": {"vip": "10.80.0.9"}}, "a single node has no use"),
    "one port for two": (masters("master", api={"local_port": 6443}), "the API's own port"),
    "the port of haproxy's health": (
        masters("master", api={"local_port": 7444}),
        "local_port 7444",
    ),
    "the port of the kubelet": (
        masters("master", api={"port": 10250}),
        "is the port of the kubelet",
    ),
    "a name of the API with its port": (
        {"api": {"extra_sans": ["api.example.org:6443"]}},
        "'api.example.org:6443' is neither a DNS name nor an address",
    ),
    "a name of the API with a scheme": (
        {"api": {"extra_sans": ["https://api.example.org"]}},
        "'https://api.example.org' is neither",
    ),
    "a name of the API with its line's end": (
        {"api": {"extra_sans": ["api.example.org\n"]}},
        "'api.example.org\\n' is neither",
    ),
    "a name of the API by which nobody can reach it": (
        {"api": {"extra_sans": ["*.example.org", "api.example.org"]}},
        "*.example.org is the first of extra_sans",
    ),
    "a star within a name of the API": (
        {"api": {"extra_sans": ["api.example.org", "api.*.org"]}},
        "'api.*.org' is neither",
    ),
    "a name of the API beyond ASCII": (
        {"api": {"extra_sans": ["\u00e4pi.example.org"]}},
        "is neither a DNS name nor an address",
    ),
    "an address of the API that is none": (
        {"api": {"extra_sans": ["10.80.0.256"]}},
        "'10.80.0.256' is neither",
    ),
    "an address of the API on one link": (
        {"api": {"extra_sans": ["fe80::1%eth0"]}},
        "'fe80::1%eth0' is neither",
    ),
    "no disk to keep free": ({"kubelet": {"reserved_disk_mib": 0}}, "greater than or equal to 1"),
    "no memory to keep free": (
        {"kubelet": {"reserved_memory_mib": 0}},
        "greater than or equal to 1",
    ),
    "a label of others": (
        worker_with("node-role.kubernetes.io/worker", ""),
        "may not give itself the label node-role.kubernetes.io/worker",
    ),
    "a label of who only looks like the kubelet": (
        worker_with("my-node.kubernetes.io/x", ""),
        "may not give itself the label my-node.kubernetes.io/x",
    ),
    "a label with a space": (worker_with("a b", ""), "'a b' is not the key of a label"),
    "a label of nothing": (worker_with("example.com/", ""), "'example.com/' is not the key"),
    "a label of no domain": (worker_with("Example.com/a", ""), "'Example.com/a' is not the key"),
    "a label's long value": (worker_with("a", "x" * 64), "is not the value of a label"),
    "a label's line": (worker_with("a", "x\n"), "is not the value of a label"),
    "a label of two": (worker_with("a", "x,b=y"), "'x,b=y' is not the value of a label"),
    "no time to answer": (
        {"etcd": {"heartbeat_ms": 500}},
        "election_ms 1000 is less than five times heartbeat_ms 500",
    ),
    "a lease that ends while its holder still works": (
        {"leader_election": {"renew_s": 15}},
        "lease_s 15 is not more than renew_s 15",
    ),
    "a lease that is tried once": (
        {"leader_election": {"lease_s": 60, "renew_s": 12, "retry_s": 10}},
        "renew_s 12 is not more than 1.2 times retry_s 10",
    ),
    "a cluster with a long name": ({"name": "c" * 50}, "certificates have room for 49"),
    "a node with a long name": ({"nodes": [node(name="n" * 53)]}, "of a kubelet has room for 52"),
}
