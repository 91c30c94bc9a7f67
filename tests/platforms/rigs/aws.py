# SPDX-License-Identifier: Apache-2.0
"""The contract on moto's server, with IAM switched on and what AWS checks beside it put in front.

Its credentials are those of a user who may do what docs/platforms/aws.md lists, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from kubekiln.operations.retrying import Patience
from kubekiln.process import Command, spawn
from pipeline.targets.aws import AwsPlatform, connect
from pipeline.targets.aws_settings import Settings
from pipeline.targets.platform import FormatName, Instance, RemoteImage
from tests.platforms.rigs.rig import NOBODY, Trouble
from tests.support.venvs import PINS_DIR, server_venv

REGION = "eu-central-1"
DOCS = Path(__file__).resolve().parents[3] / "docs" / "platforms" / "aws.md"
BLOCK = 512 << 10
_OURS = {"Name": "tag-key", "Values": ["kubekiln-node", "kubekiln-image"]}
_ALIVE = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
_TROUBLES: Mapping[str, list[dict[str, Any]]] = {
    "cut": [
        {"action": "PutSnapshotBlock", "how": "cut", "after": 3},
        {"action": "RunInstances", "how": "lose", "times": 1},
    ],
    "server-error": [{"how": "refuse"}],
    "full-storage": [
        {"action": "StartSnapshot", "how": "refuse", "status": 402,
         "code": "ServiceQuotaExceededException"},
    ],
}  # fmt: skip
Sent = list[tuple[str, dict[str, Any]]]
"""Names of actions, each with its arguments."""


def documented_policy() -> str:
    """Give the policy that the docs tell to give to kubekiln's user."""
    (policy,) = re.findall(r"```json\n(\{.*?\n\})\n```", DOCS.read_text(), re.DOTALL)
    return str(policy)


class AwsRig:
    """moto 5.2 in a process of its own, with a VPC's subnet 10.80.0.0/24."""

    name = "aws"
    format: FormatName = "raw"
    forgets = False
    cannot: Mapping[str, str] = {}

    def __enter__(self) -> AwsRig:
        self._directory = Path(tempfile.mkdtemp(prefix="kubekiln-aws-"))
        self._patch = pytest.MonkeyPatch()
        self._clients: dict[str, Any] = {}
        self._platforms: dict[str, AwsPlatform] = {}
        script = PINS_DIR / "moto_server.py"
        self._process = spawn(
            Command([server_venv("moto") / "python", script], log=None),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert self._process.stdout is not None
            self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
            self._prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._patch.undo()
        shutil.rmtree(self._directory)

    def connect(self, trouble: Trouble | None = None, **more: Any) -> AwsPlatform:
        profile = {None: "kubekiln", "wrong-credentials": "wrong"}.get(trouble, "troubled")
        if trouble:
            rules = _TROUBLES.get(trouble, [])
            self.tell(rules=[{**rule, "key": self._troubled_key} for rule in rules])
        # Reading the model of EC2 takes botocore half a second of CPU time.
        if trouble == "away":
            more = {"endpoint": f"http://{NOBODY}", **more}
        if more:
            return connect(self.settings(profile=profile, **more))
        if profile not in self._platforms:
            self._platforms[profile] = connect(self.settings(profile=profile))
        return self._platforms[profile]

    def settings(self, **more: Any) -> Settings:
        fields = {
            "type": "aws", "profile": "kubekiln", "region": REGION, "endpoint": self.endpoint,
            "subnet": "k8s-nodes", "security_groups": ["k8s-nodes"], "upload_threads": 4,
        }  # fmt: skip
        return Settings.model_validate({**fields, **more})

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        blocks = self.blocks(self.snapshot_of(image))
        disk = hashlib.sha256()
        for index in range(max(blocks) + 1):
            disk.update(blocks.get(index, bytes(BLOCK)))
        return disk.hexdigest()

    def user_data(self, instance: Instance) -> bytes:
        answer = self.admin("ec2").describe_instance_attribute(
            InstanceId=instance.id, Attribute="userData"
        )
        return base64.b64decode(answer["UserData"]["Value"])

    def etcd_disks(self, instance: Instance) -> list[int]:
        ec2 = self.admin("ec2")
        (found,) = ec2.describe_instances(InstanceIds=[instance.id])["Reservations"]
        (machine,) = found["Instances"]
        ids = [
            disk["Ebs"]["VolumeId"]
            for disk in machine["BlockDeviceMappings"]
            if disk["DeviceName"] != machine["RootDeviceName"]
        ]
        volumes = ec2.describe_volumes(VolumeIds=ids)["Volumes"] if ids else []
        assert all(disk["Ebs"]["DeleteOnTermination"] for disk in machine["BlockDeviceMappings"])
        return [volume["Size"] for volume in volumes]

    def leftovers(self) -> list[str]:
        ec2 = self.admin("ec2")
        alive = ec2.describe_instances(Filters=[_ALIVE])["Reservations"]
        return [
            *(i["InstanceId"] for r in alive for i in r["Instances"]),
            *(i["ImageId"] for i in ec2.describe_images(Filters=[_OURS])["Images"]),
            *(s["SnapshotId"] for s in ec2.describe_snapshots(Filters=[_OURS])["Snapshots"]),
            *(v["VolumeId"] for v in ec2.describe_volumes(Filters=[_OURS])["Volumes"]),
            *(n["NetworkInterfaceId"] for n in ec2.describe_network_interfaces()
              ["NetworkInterfaces"]),
        ]  # fmt: skip

    def remove_images(self) -> None:
        """Remove what was uploaded, and what is left of it."""
        ec2 = self.admin("ec2")
        tagged = [{"Name": "tag-key", "Values": ["kubekiln-image"]}]
        for ami in ec2.describe_images(Owners=["self"], Filters=tagged)["Images"]:
            ec2.deregister_image(ImageId=ami["ImageId"])
        for snapshot in ec2.describe_snapshots(Filters=tagged)["Snapshots"]:
            ec2.delete_snapshot(SnapshotId=snapshot["SnapshotId"])

    def admin(self, service: str) -> Any:
        """Give a client that may do everything."""
        if service not in self._clients:
            session = boto3.Session(profile_name="admin", region_name=REGION)
            self._clients[service] = session.client(
                service, endpoint_url=self.endpoint  # type: ignore[call-overload]
            )  # fmt: skip
        return self._clients[service]

    def tell(self, **what: Any) -> dict[str, dict[str, int]]:
        """Set rules, or do something else in front of moto; gives what was asked since rules."""
        request = urllib.request.Request(f"{self.endpoint}/kubekiln", json.dumps(what).encode())
        with urllib.request.urlopen(request) as answer:
            return dict(json.loads(answer.read()))

    def snapshot_of(self, image: RemoteImage) -> str:
        (ami,) = self.admin("ec2").describe_images(ImageIds=[image.id])["Images"]
        tags = {tag["Key"]: str(tag["Value"]) for tag in ami["Tags"]}
        return tags["kubekiln-snapshot"]

    def blocks(self, snapshot: str) -> dict[int, bytes]:
        ebs = self.admin("ebs")
        return {
            b["BlockIndex"]: ebs.get_snapshot_block(
                SnapshotId=snapshot, BlockIndex=b["BlockIndex"], BlockToken=b["BlockToken"]
            )["BlockData"].read()
            for b in ebs.list_snapshot_blocks(SnapshotId=snapshot)["Blocks"]
        }

    def _prepare(self) -> None:
        for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                     "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):  # fmt: skip
            self._patch.delenv(name, raising=False)
        self._patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        self._patch.setenv("AWS_CONFIG_FILE", str(self._directory / "config"))
        credentials = self._directory / "credentials"
        self._patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        # IAM refuses nobody until it is switched on.
        credentials.write_text(_profile("admin", "AKIAFIRST", "first"))
        users = {"admin": json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "*", "Resource": "*"}]}),
            "kubekiln": documented_policy()}  # fmt: skip
        keys = {name: self._user(name, policy) for name, policy in users.items()}
        self._network()
        keys["wrong"] = (keys["kubekiln"][0], "wrong-secret")
        keys["troubled"] = self._key("kubekiln")
        self._troubled_key = keys["troubled"][0]
        credentials.write_text("".join(_profile(name, *pair) for name, pair in keys.items()))
        self._clients.clear()
        self.tell(iam=True)

    def _user(self, name: str, policy: str) -> tuple[str, str]:
        iam = self.admin("iam")
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
        return self._key(name)

    def _key(self, name: str) -> tuple[str, str]:
        key = self.admin("iam").create_access_key(UserName=name)["AccessKey"]
        return key["AccessKeyId"], key["SecretAccessKey"]

    def _network(self) -> None:
        ec2 = self.admin("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.80.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.80.0.0/16")["Subnet"]["SubnetId"]
        ec2.create_tags(Resources=[subnet], Tags=[{"Key": "Name", "Value": "k8s-nodes"}])
        ec2.create_security_group(GroupName="k8s-nodes", Description="nodes", VpcId=vpc)
        self.admin("iam").create_instance_profile(InstanceProfileName="k8s-node")


def _profile(name: str, key: str, secret: str) -> str:
    return f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"


def listen(platform: AwsPlatform, *actions: str) -> Sent:
    """Keep what the platform sends, as botocore's model of the service has it."""
    sent: Sent = []
    for service, attempts in (("ec2", 1), ("ebs", 1), ("ebs", 4)):
        client = platform._connection.api(service, attempts=attempts)._client

        def keep(params: dict[str, Any], model: Any, **_: Any) -> None:
            if model.name in actions:
                sent.append((model.name, dict(params)))

        client.meta.events.register("provide-client-params.*.*", keep)
    return sent


def quick() -> Patience:
    """Wait as long as nobody notices before it is tried again."""
    return Patience(first_wait_s=0.01, longest_wait_s=0.1)
