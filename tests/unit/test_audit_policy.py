# SPDX-License-Identifier: Apache-2.0
"""What does the API server note, of whom? (The policy, evaluated as it does: first match wins.)

https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/#audit-policy
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

POLICY = ROOT / "cloudinit/templates/etc/kubernetes/audit-policy.yaml"
NODE = ("system:node:w-1", "system:nodes")
ADDON = ("system:serviceaccount:kube-system:x", "system:serviceaccounts:kube-system")
SCHEDULER = ("system:kube-scheduler", "system:authenticated")
SERVER = ("system:apiserver", "system:masters")
PERSON = ("kubernetes-admin", "kubekiln:cluster-admins")


def level(who: tuple[str, str], verb: str, resource: str, group: str = "") -> str:
    """Give the level at which a request for a resource is noted."""
    user, of = who
    for rule in yaml.safe_load(POLICY.read_text())["rules"]:
        people = rule.get("users", []), rule.get("userGroups", [])
        if "nonResourceURLs" in rule or ("users" in rule and user not in people[0]):
            continue
        if "userGroups" in rule and of not in people[1]:
            continue
        if verb in rule.get("verbs", [verb]) and names(rule, resource, group):
            return str(rule["level"])
    raise AssertionError("no rule fits")


def names(rule: dict[str, Any], resource: str, group: str) -> bool:
    listed = rule.get("resources")
    return listed is None or any(
        resource in each["resources"] and group == each.get("group", "") for each in listed
    )


@pytest.mark.parametrize("who", [NODE, ADDON, SCHEDULER, PERSON], ids=lambda who: who[0])
@pytest.mark.parametrize("verb", ["get", "list", "watch", "create", "delete"])
@pytest.mark.parametrize("resource", ["secrets", "configmaps"])
def test_whoever_touches_a_secret_is_noted(who: tuple[str, str], verb: str, resource: str) -> None:
    assert level(who, verb, resource) == "Metadata"


@pytest.mark.parametrize("who", [NODE, ADDON, PERSON], ids=lambda who: who[0])
@pytest.mark.parametrize("verb", ["get", "create"])
def test_a_command_in_a_pod_is_noted_whole_by_either_verb(who: tuple[str, str], verb: str) -> None:
    # WebSockets begin with get, SPDY with create.
    assert level(who, verb, "pods/exec") == "Request"


@pytest.mark.parametrize(
    ("who", "verb", "resource", "group"),
    [
        (NODE, "watch", "pods", ""),
        (NODE, "update", "leases", "coordination.k8s.io"),
        (ADDON, "list", "endpointslices", "discovery.k8s.io"),
        (SCHEDULER, "list", "nodes", ""),
        (SERVER, "get", "configmaps", ""),
        (PERSON, "create", "events", ""),
    ],
)
def test_what_the_clusters_parts_do_all_the_time_is_not(
    who: tuple[str, str], verb: str, resource: str, group: str
) -> None:
    assert level(who, verb, resource, group) == "None"


def test_the_rest_is_noted() -> None:
    assert level(PERSON, "get", "pods") == level(NODE, "patch", "nodes/status") == "Metadata"
