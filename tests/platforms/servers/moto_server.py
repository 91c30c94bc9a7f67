# SPDX-License-Identifier: Apache-2.0
"""moto as a server on a free port of 127.0.0.1, made stricter, and unreliable when it is told to.

Run by moto's own interpreter, so it imports nothing of ours. Prints its port; ends with its
standard input, that is with whoever started it.

moto 5.2 takes any checksum, calls a snapshot completed from the beginning, ignores ClientToken, the
limit of user-data, tags of cards, and what RegisterImage is told beside a name. What AWS'
documentation says of these is done here, in front of it; tokens can be switched off.

`POST /kubekiln` sets rules: `{"action", "key", "how", "after", "times", "share"}`. How: `cut` hangs
up before the work is done, `lose` after it, `refuse` answers with an error.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import re
import socket
import sys
import threading
from collections import Counter
from urllib.parse import parse_qs

from moto import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ebs.models import ebs_backends
from moto.ec2.models import ec2_backends
from moto.ec2.models.core import TaggedEC2Resource
from moto.iam.access_control import IAMRequestBase
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

REGION = "eu-central-1"
LONGEST_USER_DATA = 16_384
EBS_ACTIONS = (
    ("POST", r"/snapshots", "StartSnapshot"),
    ("POST", r"/snapshots/completion/(?P<snapshot>[^/]+)", "CompleteSnapshot"),
    ("PUT", r"/snapshots/(?P<snapshot>[^/]+)/blocks/(?P<index>\d+)", "PutSnapshotBlock"),
    ("GET", r"/snapshots/(?P<snapshot>[^/]+)/blocks", "ListSnapshotBlocks"),
    ("GET", r"/snapshots/(?P<snapshot>[^/]+)/blocks/(?P<index>\d+)", "GetSnapshotBlock"),
)


def sign_as_sent(self, make=IAMRequestBase._create_aws_request):
    """Check the signature of an empty body as such; moto takes the parsed arguments for it."""
    if self._service == "ebs" and not self._body:
        self._data = b""
    return make(self)


def tags_of_one(self):
    """Look a resource's tags up; moto goes through those of all, for each: seconds for many."""
    found = self.ec2_backend.tags.get(self.id, {})
    return [{"resource_id": self.id, "key": key, "value": found[key]} for key in list(found)]


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


class Layer:
    """Rules first, then what moto doesn't check, then moto."""

    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.strict = Strict()
        self.rules = []
        self.seen, self.troubled = Counter(), Counter()
        self.random = random.Random(1)
        self.lock, self.one_at_a_time = threading.Lock(), threading.Lock()

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/kubekiln":
            return self.control(Request(environ), start_response)
        request = Request(environ)
        rule = self.trouble(request)
        how = rule and rule["how"]
        if how == "cut":
            return hang_up(environ, start_response)
        try:
            if how == "refuse":
                status = rule.get("status", 503)
                code = "ServiceUnavailable" if status == 503 else "AccessDeniedException"
                raise Refused(status, rule.get("code", code), "no")
            answer = self.strict.before(request)
            if answer is None:
                answer = self.ask_moto(environ)
                self.strict.after(request, answer)
        except Refused as refusal:
            answer = error_answer(refusal, request)
        if how == "lose":
            return hang_up(environ, start_response)
        start_response(answer[0], answer[1])
        return [answer[2]]

    def ask_moto(self, environ):
        caught = []

        def start(status, headers, exc_info=None):
            caught[:] = [status, headers]

        # Not for speed: two of moto's own requests at a time now and then end in its error 500.
        with self.one_at_a_time:
            body = b"".join(self.moto(environ, start))
        return caught[0], caught[1], body

    def trouble(self, request):
        action, signed = request.action, request.header("authorization")
        with self.lock:
            self.seen[action] += 1
            for rule in self.rules:
                if rule.get("action", action) != action or rule.get("times", 1) <= 0:
                    continue
                if rule.get("key", "") not in signed:
                    continue
                if rule.get("after", 0) > 0:
                    rule["after"] -= 1
                    continue
                if self.random.random() >= rule.get("share", 1.0):
                    continue
                if "times" in rule:
                    rule["times"] -= 1
                chosen = {**rule, "how": self.random.choice(rule["how"].split())}
                self.troubled[f"{action} {chosen['how']}"] += 1
                return chosen
        return None

    def control(self, request, start_response):
        told = json.loads(request.body or b"{}")
        with self.lock:
            if "rules" in told:
                self.rules = told["rules"]
                self.random = random.Random(told.get("seed", 1))
                self.strict.use_tokens = told.get("tokens", True)
                self.seen, self.troubled = Counter(), Counter()
            if told.get("iam"):
                settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
            if "spoil" in told:
                blocks = ebs_backends[DEFAULT_ACCOUNT_ID][REGION].snapshots[told["spoil"]].blocks
                block = blocks[max(blocks)]
                block.block_data = bytes(len(block.block_data))
            if "states" in told:
                for snapshot, state in told["states"].items():
                    self.strict._state(snapshot, state)
            body = json.dumps({"seen": self.seen, "troubled": self.troubled}).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]


def hang_up(environ, start_response):
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start_response("200 OK", [])
    return [b""]


def error_answer(refusal, request):
    status = f"{refusal.status} Refused"
    if request.is_ebs:
        body = json.dumps({"Message": str(refusal)}).encode()
        headers = [("x-amzn-ErrorType", refusal.code), ("Content-Length", str(len(body)))]
        return status, headers, body
    error = f"<Error><Code>{refusal.code}</Code><Message>{refusal}</Message></Error>"
    body = f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>".encode()
    return status, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))], body


def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)


def main():
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    IAMRequestBase._create_aws_request = sign_as_sent
    TaggedEC2Resource.get_tags = tags_of_one
    threading.Thread(target=end_with_parent, daemon=True).start()
    server = make_server("127.0.0.1", 0, Layer(), threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
