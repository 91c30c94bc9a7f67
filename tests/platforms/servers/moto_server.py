# SPDX-License-Identifier: Apache-2.0
"""moto as a server on a free port of 127.0.0.1, made stricter, and unreliable when it is told to.

Run by moto's own interpreter, so it imports nothing of ours but `moto_strict` beside it. Prints its
port; ends with its standard input, that is with whoever started it.

`POST /kubekiln` sets rules: `{"action", "key", "how", "after", "times", "share"}`. How: `cut` hangs
up before the work is done, `lose` after it, `refuse` answers with an error.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import threading
from collections import Counter

from moto import settings
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ebs.models import ebs_backends
from moto.ec2.models.core import TaggedEC2Resource
from moto.iam.access_control import IAMRequestBase
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto_strict import REGION, Refused, Request, Strict
from werkzeug.serving import make_server


def sign_as_sent(self, make=IAMRequestBase._create_aws_request):
    """Check the signature of an empty body as such; moto takes the parsed arguments for it."""
    if self._service == "ebs" and not self._body:
        self._data = b""
    return make(self)


def tags_of_one(self):
    """Look a resource's tags up; moto goes through those of all, for each: seconds for many."""
    found = self.ec2_backend.tags.get(self.id, {})
    return [{"resource_id": self.id, "key": key, "value": found[key]} for key in list(found)]


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
