# SPDX-License-Identifier: Apache-2.0
"""What is made of AWS' errors, and of those of its SDK?"""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    SSLError,
    WaiterError,
)
from botocore.parsers import ResponseParserError

from kubekiln.errors import KubekilnError
from pipeline.targets.aws_calls import HINTS, TRANSIENT_CODES, refusal, sdk_errors
from pipeline.targets.platform import TransientError


def answer(code: str, status: int = 400, message: str = "so it is.") -> dict[str, Any]:
    return {"Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status}}  # fmt: skip


@pytest.mark.parametrize("code", sorted(TRANSIENT_CODES))
def test_what_aws_may_do_in_a_moment_is_transient(code: str) -> None:
    assert isinstance(refusal(answer(code), "ec2 run_instances"), TransientError)


@pytest.mark.parametrize("code", sorted(HINTS.keys() - TRANSIENT_CODES))
def test_what_aws_refuses_for_good_says_what_to_do(code: str) -> None:
    error = refusal(answer(code), "ec2 run_instances")

    assert not isinstance(error, TransientError)
    (problem,) = error.problems
    assert (problem.what, problem.where) == (f"{code}: so it is", "ec2 run_instances")
    assert problem.hint


def test_an_unknown_error_of_the_server_is_transient_and_one_of_ours_is_not() -> None:
    assert isinstance(refusal(answer("Oddity", 500), "x"), TransientError)
    assert not isinstance(refusal(answer("Oddity", 400), "x"), TransientError)
    assert refusal(answer("Oddity", 403), "x").problems[0].hint


def test_what_only_aws_can_decode_is_left_out() -> None:
    said = "You are not authorized. Encoded authorization failure message: " + "A" * 3000

    error = refusal(answer("UnauthorizedOperation", 403, said), "ec2 run_instances")

    assert error.problems[0].what == "UnauthorizedOperation: You are not authorized"


@pytest.mark.parametrize(
    ("raised", "transient", "hint"),
    [
        (EndpointConnectionError(endpoint_url="http://x"), True, "reachable"),
        (ConnectionClosedError(endpoint_url="http://x"), True, "reachable"),
        (ResponseParserError("<html>\n<title>proxy</title>"), True, "reachable"),
        (SSLError(endpoint_url="https://x", error="unknown CA"), False, "ca_bundle"),
        (NoCredentialsError(), False, "aws configure"),
        (WaiterError("w", "Max attempts exceeded", {}), True, "console"),
        (WaiterError("w", "Waiter encountered a terminal failure state", {}), False, "console"),
        (WaiterError("w", "An error occurred", answer("InvalidInstanceID.NotFound")), False, ""),
        (WaiterError("w", "An error occurred", answer("InternalError", 500)), True, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_no_exception_of_the_sdk_gets_out(raised: Exception, transient: bool, hint: str) -> None:
    with pytest.raises(KubekilnError) as caught, sdk_errors("ec2 run_instances"):
        raise raised

    assert isinstance(caught.value, TransientError) is transient
    (problem,) = caught.value.problems
    assert "\n" not in problem.what
    assert hint in (problem.hint or "")
