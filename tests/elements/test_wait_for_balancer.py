# SPDX-License-Identifier: Apache-2.0
"""Is a machine held back until its balancer leads to a master, without asking much meanwhile?"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kubekiln.process import Command, run
from tests.support.node_runtime import PROGRAMS_DIR

pytestmark = pytest.mark.processes("wait-for-balancer")

URL, CA = "https://127.0.0.1:7443/readyz", "/etc/kubernetes/pki/ca.crt"


@pytest.mark.parametrize(
    ("balancer", "api", "asked"),
    [
        pytest.param([0], [0], ["is", "wait"], id="ready at once"),
        pytest.param([1, 1, 0], [0], ["is", "is", "is", "wait"], id="no TLS while there is nobody"),
        pytest.param([0, 0], [1, 0], ["is", "wait", "is", "wait"], id="what haproxy says is tried"),
    ],
)
def test_it_asks_the_api_only_when_the_balancer_knows_a_server(
    tmp_path: Path, balancer: list[int], api: list[int], asked: list[str]
) -> None:
    shutil.copy(PROGRAMS_DIR / "wait-for-balancer", tmp_path)
    for name, answers in (("is-serving", balancer), ("wait-for-api", api)):
        answer(tmp_path / name, answers)
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)

    run(
        Command(
            [tmp_path / "wait-for-balancer", URL, CA], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
        )
    )

    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition("-")[0] for line in lines] == asked
    assert {line for line in lines if line.startswith("is")} == {"is-serving /some"}
    assert {line for line in lines if line.startswith("wait")} == {f"wait-for-api {URL} 0 {CA}"}


def answer(program: Path, statuses: list[int]) -> None:
    """Make a program that notes how it was called and ends with one status after the other."""
    left = program.with_name(f"{program.name}.left")
    left.write_text("".join(f"{status}\n" for status in statuses))
    program.write_text(
        f'#!/bin/sh\necho {program.name} "$@" >>{program.parent}/log\n'
        f'status=$(head -n 1 {left})\nsed -i 1d {left}\nexit "$status"\n'
    )
    program.chmod(0o755)
