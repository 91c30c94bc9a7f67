# SPDX-License-Identifier: Apache-2.0
"""Are OpenStack's errors told as ours: what passes, what to do, and no secret?"""

from __future__ import annotations

import pytest
import requests
from keystoneauth1 import exceptions as auth
from openstack import exceptions as sdk

from pipeline.targets.openstack_errors import translated
from pipeline.targets.platform import TransientError


def http_error(status: int, details: str = "because") -> sdk.SDKException:
    response = requests.Response()
    response.status_code = status
    response.request = requests.Request("GET", "http://cloud/v2.1/servers?name=x").prepare()
    return sdk.HttpException(response=response, details=details)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_transient(status: int) -> None:
    assert isinstance(translated("do it", http_error(status)), TransientError)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 413])
def test_what_will_not_pass_has_a_hint(status: int) -> None:
    found = translated("do it", http_error(status))

    assert not isinstance(found, TransientError)
    assert found.problems[0].what.startswith("cannot do it: ")
    assert found.problems[0].where == "http://cloud/v2.1/servers"
    assert found.problems[0].hint


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (auth.ConnectFailure("refused"), True),
        (auth.DiscoveryFailure("no versions"), True),
        (requests.exceptions.ChunkedEncodingError("cut"), True),
        (auth.SSLError("certificate verify failed"), False),
        (auth.MissingRequiredOptions([]), False),
        (auth.EndpointNotFound("no compute"), False),
        (sdk.ConfigException("Cloud lab was not found."), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_without_a_status_are_told_apart(error: Exception, passes: bool) -> None:
    found = translated("do it", error)

    assert isinstance(found, TransientError) == passes
    assert passes or found.problems[0].hint


def test_an_error_has_no_markup_of_theirs() -> None:
    found = translated("do it", http_error(413, "The image is too large.<br /><br />\n"))

    assert found.problems[0].what == "cannot do it: The image is too large."


def test_an_error_repeats_nothing_that_may_be_the_user_data() -> None:
    said = f"Invalid input for field/attribute user_data. Value: {'QUJD' * 99}. 'QUJD' is too long"

    found = translated("make machine lab-1", http_error(400, said))

    assert "QUJDQUJD" not in str(found)
    assert "Invalid input for field/attribute user_data. Value: ***" in str(found)
