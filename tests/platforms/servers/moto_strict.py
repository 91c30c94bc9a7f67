# SPDX-License-Identifier: Apache-2.0
"""What does AWS check that moto doesn't?

moto 5.2 takes any checksum, calls a snapshot completed from the beginning, ignores ClientToken, the
limit of user-data, tags of cards, and what RegisterImage is told beside a name. What AWS'
documentation says of these is done here, before and after moto is asked; tokens can be switched
off.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
from urllib.parse import parse_qs

from moto.core import DEFAULT_ACCOUNT_ID
from moto.ebs.models import ebs_backends
from moto.ec2.models import ec2_backends

REGION = "eu-central-1"
LONGEST_USER_DATA = 16_384
EBS_ACTIONS = (
    ("POST", r"/snapshots", "StartSnapshot"),
    ("POST", r"/snapshots/completion/(?P<snapshot>[^/]+)", "CompleteSnapshot"),
    ("PUT", r"/snapshots/(?P<snapshot>[^/]+)/blocks/(?P<index>\d+)", "PutSnapshotBlock"),
    ("GET", r"/snapshots/(?P<snapshot>[^/]+)/blocks", "ListSnapshotBlocks"),
    ("GET", r"/snapshots/(?P<snapshot>[^/]+)/blocks/(?P<index>\d+)", "GetSnapshotBlock"),
)


class Refused(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


class Request:
    """One request: which action of which service, its arguments and its body."""

    def __init__(self, environ):
        self.environ = environ
        self.body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(self.body)
        self.action, self.arguments = self._ebs() or self._form()
        self.is_ebs = any(self.action == action for _, _, action in EBS_ACTIONS)

    def _ebs(self):
        for method, pattern, action in EBS_ACTIONS:
            match = re.fullmatch(pattern, self.environ["PATH_INFO"])
            if match and method == self.environ["REQUEST_METHOD"]:
                arguments = match.groupdict()
                told = json.loads(self.body) if action == "StartSnapshot" else {}
                return action, arguments | told
        return None

    def _form(self):
        fields = parse_qs(self.body.decode()) if self.body else {}
        return fields.get("Action", [""])[0], {key: value[0] for key, value in fields.items()}

    def header(self, name):
        return self.environ.get("HTTP_" + name.upper().replace("-", "_"), "")


class Strict:
    """What AWS checks and moto doesn't."""

    def __init__(self):
        self.lock = threading.Lock()
        self.use_tokens = True
        self.sums = {}
        self.answers = {}

    def before(self, request):
        """Give the answer of the first request with this token, or refuse, or do nothing."""
        check = getattr(self, f"_{request.action}", None)
        if check:
            check(request)
        token = request.arguments.get("ClientToken")
        if not (token and self.use_tokens):
            return None
        with self.lock:
            known, answer = self.answers.get(token, (None, None))
        if answer is None:
            return None
        if known != request.body:
            raise Refused(400, "IdempotentParameterMismatch", "other parameters")
        made = re.search(rb"<instanceId>(i-[0-9a-f]+)", answer[2])
        if made and self._ec2.get_instance(made[1].decode()).state == "terminated":
            raise Refused(400, "IdempotentInstanceTerminated", "the instance was terminated")
        return answer

    def after(self, request, answer):
        if not answer[0].startswith("2"):
            return
        token = request.arguments.get("ClientToken")
        if token:
            with self.lock:
                self.answers[token] = (request.body, answer)
        if request.action == "StartSnapshot":
            self._state(json.loads(answer[2])["SnapshotId"], "pending")
        if request.action == "CompleteSnapshot":
            self._state(request.arguments["snapshot"], "completed")

        if request.action == "RegisterImage":
            self._keep_registered(request, re.search(rb"<imageId>(ami-[0-9a-f]+)", answer[2])[1])
        if request.action == "RunInstances":
            made = re.search(rb"<instanceId>(i-[0-9a-f]+)", answer[2])[1].decode()
            for card in self._ec2.get_instance(made).nics.values():
                card.add_tags(tags(request, "network-interface"))

    def _keep_registered(self, request, ami_id):
        ami = self._ec2.amis[ami_id.decode()]
        ami.architecture = request.arguments["Architecture"]
        ami.boot_mode = request.arguments["BootMode"]
        ami.root_device_name = request.arguments["RootDeviceName"]
        ami.add_tags(tags(request, "image"))

    def _RegisterImage(self, request):  # noqa: N802
        if any(ami.name == request.arguments["Name"] for ami in self._ec2.amis.values()):
            raise Refused(400, "InvalidAMIName.Duplicate", "the name is taken")
        snapshot = request.arguments["BlockDeviceMapping.1.Ebs.SnapshotId"]
        if self._state(snapshot) != "completed":
            raise Refused(400, "InvalidSnapshot.NotFound", f"{snapshot} is not completed")

    @property
    def _ec2(self):
        return ec2_backends[DEFAULT_ACCOUNT_ID][REGION]

    def _state(self, snapshot, state=None):
        found = self._ec2.snapshots.get(snapshot)
        if found is None or snapshot not in ebs_backends[DEFAULT_ACCOUNT_ID][REGION].snapshots:
            raise Refused(404, "ResourceNotFoundException", f"The snapshot {snapshot} is not there")
        if state:
            found.status = state
        return found.status

    def _PutSnapshotBlock(self, request):  # noqa: N802
        snapshot, index = request.arguments["snapshot"], int(request.arguments["index"])
        if self._state(snapshot) != "pending":
            raise Refused(400, "ValidationException", f"{snapshot} is not pending")
        digest = hashlib.sha256(request.body).digest()
        if len(request.body) != 524288 or request.header("x-amz-data-length") != "524288":
            raise Refused(400, "ValidationException", "a block has 524288 bytes")
        if request.header("x-amz-checksum") != base64.b64encode(digest).decode():
            raise Refused(400, "ValidationException", "the checksum is not that of the block")
        with self.lock:
            self.sums.setdefault(snapshot, {})[index] = digest

    def _CompleteSnapshot(self, request):  # noqa: N802
        snapshot = request.arguments["snapshot"]
        if self._state(snapshot) == "completed":
            return
        with self.lock:
            sums = self.sums.get(snapshot, {})
        whole = hashlib.sha256(b"".join(sums[index] for index in sorted(sums))).digest()
        if request.header("x-amz-changedblockscount") != str(len(sums)):
            raise Refused(400, "ValidationException", f"{len(sums)} blocks were written")
        if request.header("x-amz-checksum") != base64.b64encode(whole).decode():
            raise Refused(400, "ValidationException", "the checksum is not that of the snapshot")

    def _ListSnapshotBlocks(self, request):  # noqa: N802
        if self._state(request.arguments["snapshot"]) != "completed":
            raise Refused(400, "ValidationException", "the snapshot is pending")

    _GetSnapshotBlock = _ListSnapshotBlocks

    def _RunInstances(self, request):  # noqa: N802
        if len(base64.b64decode(request.arguments.get("UserData", ""))) > LONGEST_USER_DATA:
            raise Refused(400, "InvalidParameterValue", "User data is limited to 16384 bytes")


def tags(request, kind):
    """Read the tags of one kind of resource out of a request's TagSpecification."""
    found, given = {}, request.arguments
    for number in range(1, 9):
        specification = f"TagSpecification.{number}"
        if given.get(f"{specification}.ResourceType") == kind:
            for key, value in given.items():
                if re.fullmatch(re.escape(specification) + r"\.Tag\.\d+\.Key", key):
                    found[value] = given[key.removesuffix("Key") + "Value"]
    return found
