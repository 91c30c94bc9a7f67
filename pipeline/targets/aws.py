# SPDX-License-Identifier: Apache-2.0
"""How do images get to AWS, and machines run on EC2?

image    EBS snapshot (blocks put directly) → AMI                     aws_blocks, aws_images
machine  RunInstances, with user-data, card, root volume and tags     aws_machines
errors   of AWS and its SDK                                           aws_calls
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.aws_calls import Api, AwsBusyError, AwsError, Connection
from pipeline.targets.aws_images import Images, by_tags
from pipeline.targets.aws_lookups import find_begun, find_network, unknown_type
from pipeline.targets.aws_machines import (
    CLUSTER_TAG,
    NODE_TAG,
    STATES,
    Network,
    addresses_of,
    client_token,
    instance_of,
    instance_type_for,
    refusals,
    run_request,
)
from pipeline.targets.aws_remains import of_each_node, remains, remover
from pipeline.targets.aws_settings import Settings
from pipeline.targets.platform import (
    Advance,
    DiskImage,
    FormatName,
    Instance,
    InstanceSpec,
    RemoteImage,
    TransientError,
    cannot_forget,
)

# A block that EBS has no time for is put again by botocore, with pauses that grow.
_BLOCK_ATTEMPTS = 4
# How often one and the same machine may have been made and removed while EC2 remembers it.
_GENERATIONS = 50
_GONE = frozenset({
    "InvalidInstanceID.NotFound", "InvalidNetworkInterfaceID.NotFound", "InvalidVolume.NotFound",
})  # fmt: skip


class AwsPlatform:
    """AMIs and machines of one region and account."""

    type = "aws"
    format: FormatName = "raw"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = Connection(
            profile=settings.profile,
            region=settings.region,
            endpoint=settings.endpoint,
            connections=max(settings.parallel, settings.upload_threads),
        )
        self._architectures: dict[str, str] = {}

    @property
    def _ec2(self) -> Api:
        return self._connection.api("ec2")

    @property
    def _images(self) -> Images:
        return Images(
            ec2=self._ec2,
            ebs=self._connection.api("ebs"),
            blocks=self._connection.api("ebs", attempts=_BLOCK_ATTEMPTS),
            place=f"{self._settings.profile} {self._settings.region} {self._settings.endpoint}",
            threads=self._settings.upload_threads,
            read_all=self._settings.read_back == "all",
            tags=self._settings.tags,
        )

    def problems(self) -> list[Problem]:
        """Say why nothing can be done: credentials, region, subnet, groups, type of machine."""
        try:
            return unknown_type(self._ec2, self._settings.instance_type, self._network.zone)
        except TransientError:
            raise
        except KubekilnError as error:
            return list(error.problems)

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for an available AMI with this content's tag and a completed snapshot."""
        return self._images.find(image)

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Put the blocks that aren't zeros into a snapshot, read it back, register an AMI."""
        return self._images.upload(image, advance)

    def delete_image(self, image: RemoteImage) -> None:
        """Deregister the AMI and remove its snapshot."""
        self._images.delete(image)

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        """Hold user-data, cards, addresses, sizes and disks against EC2's limits and the subnet."""
        at = self._network, self._settings
        return [p for spec in specs for p in refusals(spec, image, *at)]

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List machines that aren't gone, and what is left of those that are."""
        wanted = by_tags({CLUSTER_TAG: cluster}) if cluster else _tagged(CLUSTER_TAG)
        wanted += _tagged(NODE_TAG)
        alive = {"Name": "instance-state-name", "Values": list(STATES)}
        reservations = self._ec2.pages(
            "describe_instances", "Reservations", Filters=[*wanted, alive]
        )
        check = self._settings.source_dest_check
        found = [instance_of(i, wants_check=check) for r in reservations for i in r["Instances"]]
        there = {(instance.cluster, instance.node) for instance in found}
        rest = of_each_node(remains(self._ec2, wanted))
        return [*found, *(rest[key] for key in sorted(rest.keys() - there))]

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Run a machine, or wait for the one that EC2 makes.

        Asked twice, EC2 knows it by its token and gives the same one.
        """
        kind = self._settings.instance_type or instance_type_for(
            spec.cpus, spec.memory_mib, self._architecture(image)
        )
        request = run_request(spec, image, self._network, self._settings, kind)
        made = find_begun(self._ec2, spec) or self._run(request)
        one = str(made["InstanceId"])
        self._wait_running(one)
        if not self._settings.source_dest_check:
            self._turn_check_off(one)
        return Instance(
            id=one, cluster=spec.cluster, node=spec.node, payload=spec.payload, state="running",
            addresses=addresses_of(made), detail=str(made.get("InstanceType", kind)),
        )  # fmt: skip

    def start(self, instance: Instance) -> None:
        """Start a machine; EC2 takes no offence if it runs."""
        if not self._settings.source_dest_check:
            self._turn_check_off(instance.id)
        self._ec2("start_instances", InstanceIds=[instance.id])

    def _turn_check_off(self, one: str) -> None:
        off = {"Value": False}
        self._ec2("modify_instance_attribute", InstanceId=one, SourceDestCheck=off)

    def read_console(self, instance: Instance) -> str | None:
        """Give the last 64 KiB of the serial console, empty until EC2 has some of it."""
        if not instance.id.startswith("i-"):
            return None
        try:
            answer = self._ec2("get_console_output", InstanceId=instance.id, Latest=True)
        except AwsError as error:
            if error.code != "UnsupportedOperation":
                raise
            # Types that aren't on Nitro: what they wrote until a while ago.
            answer = self._ec2("get_console_output", InstanceId=instance.id)
        return str(answer.get("Output", ""))

    def forget_user_data(self, instance: Instance) -> None:
        """Raise: it can't be done."""
        raise cannot_forget(instance, "EC2 changes the user-data of stopped machines only")

    def delete(self, instance: Instance) -> None:
        """Terminate a machine and wait until it is gone, or remove what one that is gone left.

        Card and volume go with it (DeleteOnTermination), unless somebody told EC2 otherwise: then
        `list_instances` gives them.
        """
        if instance.id.startswith("i-"):
            self._gone_is_fine("terminate_instances", InstanceIds=[instance.id])
            try:
                self._ec2.wait("instance_terminated", InstanceIds=[instance.id])
            except AwsError as error:
                if not error.code:  # the waiter saw a state older than the one that we asked for
                    what = error.problems[0].what
                    raise AwsBusyError(f"{instance.id} is not gone yet: {what}") from error
                if error.code not in _GONE:
                    raise
            return
        wanted = by_tags({CLUSTER_TAG: instance.cluster, NODE_TAG: instance.node})
        for left in remains(self._ec2, wanted):
            action, arguments = remover(left)
            self._gone_is_fine(action, **arguments)

    def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        for generation in range(_GENERATIONS):
            token = client_token(request, generation)
            try:
                answer = self._ec2("run_instances", **request, ClientToken=token)
            except AwsError as error:
                if error.code != "IdempotentInstanceTerminated":
                    raise
            else:
                return dict(answer["Instances"][0])
        raise AwsError(f"the same machine was made and removed {_GENERATIONS} times",
                       hint="wait until EC2 has forgotten that: a day or two")  # fmt: skip

    def _wait_running(self, made: str) -> None:
        try:
            self._ec2.wait("instance_running", InstanceIds=[made])
        except AwsError as error:
            why = self._state_reason(made)
            raise AwsError(
                f"{made} was ended at once: {why}", where=error.problems[0].where,
                hint="may the account's EC2 use the key of the root volume (kms_key)?",
            ) from error  # fmt: skip

    def _state_reason(self, made: str) -> str:
        (reservation,) = self._ec2("describe_instances", InstanceIds=[made])["Reservations"]
        reason = reservation["Instances"][0].get("StateReason", {})
        return str(reason.get("Message", "no reason given"))

    def _gone_is_fine(self, action: str, **arguments: Any) -> None:
        try:
            self._ec2(action, **arguments)
        except AwsError as error:
            if error.code not in _GONE:
                raise

    def _architecture(self, image: RemoteImage) -> str:
        if image.id not in self._architectures:
            (found,) = self._ec2("describe_images", ImageIds=[image.id])["Images"]
            self._architectures[image.id] = str(found["Architecture"])
        return self._architectures[image.id]

    @cached_property
    def _network(self) -> Network:
        return find_network(self._ec2, self._settings)


def connect(settings: Settings) -> AwsPlatform:
    """Make the platform of these settings."""
    return AwsPlatform(settings)


def _tagged(key: str) -> list[dict[str, Any]]:
    return [{"Name": "tag-key", "Values": [key]}]
