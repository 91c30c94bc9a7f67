# SPDX-License-Identifier: Apache-2.0
"""What do the names in a target's settings mean in the account and region?"""

from __future__ import annotations

from typing import Any

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.aws_calls import Api
from pipeline.targets.aws_images import by_tags
from pipeline.targets.aws_machines import Network
from pipeline.targets.aws_settings import Settings
from pipeline.targets.platform import InstanceSpec


def find_network(ec2: Api, settings: Settings) -> Network:
    """Look up subnet and security groups; raises KubekilnError for what isn't there just once."""
    named = settings.subnet
    filters = [equal("subnet-id" if named.startswith("subnet-") else "tag:Name", named)]
    subnet = _one(ec2, "describe_subnets", "Subnets", filters, f"subnet {named}")
    groups = [_group(ec2, name, subnet["VpcId"]) for name in settings.security_groups]
    return Network.of(subnet, groups)


def _group(ec2: Api, named: str, vpc: str) -> str:
    name = "group-id" if named.startswith("sg-") else "group-name"
    filters = [equal(name, named), equal("vpc-id", vpc)]
    what = f"security group {named} in {vpc}"
    return str(_one(ec2, "describe_security_groups", "SecurityGroups", filters, what)["GroupId"])


def _one(
    ec2: Api, action: str, key: str, filters: list[dict[str, Any]], what: str
) -> dict[str, Any]:
    found = list(ec2.pages(action, key, Filters=filters))
    if len(found) != 1:
        raise KubekilnError(
            f"there are {len(found)} of {what}" if found else f"there is no {what}",
            hint="check region, profile and the name; an id is always one thing",
        )
    return found[0]


def unknown_type(ec2: Api, kind: str | None, zone: str) -> list[Problem]:
    """Say so if a zone has no machines of the type that is named."""
    if kind is None:
        return []
    offered = ec2(
        "describe_instance_type_offerings",
        LocationType="availability-zone",
        Filters=[equal("instance-type", kind), equal("location", zone)],
    )["InstanceTypeOfferings"]
    if offered:
        return []
    return [Problem(f"no instances of type {kind} in {zone}", hint="take another type or zone")]


def find_begun(ec2: Api, spec: InstanceSpec) -> dict[str, Any] | None:
    """Find the machine of a node that EC2 is making right now.

    The token of its request tells no more who it is where the target's settings were changed.
    """
    filters = [*by_tags(spec.tags), equal("instance-state-name", "pending")]
    reservations = ec2.pages("describe_instances", "Reservations", Filters=filters)
    return next((found for one in reservations for found in one["Instances"]), None)


def equal(name: str, value: str) -> dict[str, Any]:
    """Filter a list by one value, as AWS takes it."""
    return {"Name": name, "Values": [value]}
