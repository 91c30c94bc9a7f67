# SPDX-License-Identifier: Apache-2.0
"""Do the small parts of the frame (paths, contract, errors, progress, exit codes) hold?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kubekiln.contract import KubernetesContract
from kubekiln.errors import ConfigError, KubekilnError, Problem
from kubekiln.paths import Project, cache_dir
from kubekiln.process import Command, run
from kubekiln.progress import clock, step, transfer

ROOT = Path(__file__).resolve().parents[2]


def test_a_project_is_found_from_below() -> None:
    assert Project.find(ROOT / "docs" / "reference").root == ROOT


def test_no_project_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no kubekiln project at or above"):
        Project.find(tmp_path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        Project(ROOT).config_path("clusters", "nope")

    assert "there are: " in str(caught.value)
    assert "solo" in str(caught.value)


def test_a_name_with_a_slash_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.touch()

    assert Project(ROOT).config_path("clusters", str(path)) == path


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "kubekiln"

    # The specification: a relative path is invalid and ignored.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path.home() / ".cache" / "kubekiln"


@pytest.mark.parametrize("version", ["1.34.1", "1.38.0", "2.0.0", "v1.37.1", "1.37"])
def test_versions_outside_the_contract_are_refused(version: str) -> None:
    with pytest.raises(ConfigError):
        KubernetesContract.of(version)


def test_several_problems_are_one_error_with_all_lines() -> None:
    error = ConfigError.of([Problem("a is bad", "f:1", "do b"), Problem("c is bad")])

    assert isinstance(error, ConfigError)
    assert str(error) == "error: a is bad\n  at f:1\n  hint: do b\nerror: c is bad"


def test_no_error_shows_the_credentials_of_a_mirror_or_proxy() -> None:
    error = KubekilnError(
        "https://me:s3cret@proxy.example/x: 403", where="git+https://t0ken@host/a",
        hint="modules come through GOPROXY=https://me:s3cret@proxy.example,direct; ask a@b.example",
    )  # fmt: skip

    assert str(error).splitlines() == [
        "error: https://…@proxy.example/x: 403",
        "  at git+https://…@host/a",
        "  hint: modules come through GOPROXY=https://…@proxy.example,direct; ask a@b.example",
    ]


def test_steps_print_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with step("Doing a thing"):
        pass
    with pytest.raises(KubekilnError), step("Failing"):
        raise KubekilnError("no")
    with transfer("Fetching", 10) as advance:
        advance(10)

    err = capsys.readouterr().err
    assert "Doing a thing …\n✓ Doing a thing (0.0 s)" in err
    assert "✗ Failing (" in err
    assert "✓ Fetching (" in err


def test_durations_read_well() -> None:
    assert [clock(4.24), clock(125)] == ["4.2 s", "2 m 05 s"]


@pytest.mark.usefixtures("hangup_ends")
@pytest.mark.processes("sh")
@pytest.mark.parametrize(("before", "code"), [("", 130), ("trap '' HUP; ", 0)], ids=["", "nohup"])
def test_the_end_of_the_terminal_is_an_interrupt_unless_it_is_ignored(
    before: str, code: int
) -> None:
    program = (
        "import os, signal; from kubekiln import __main__ as m\n"
        "m._run = lambda: os.kill(os.getpid(), signal.SIGHUP)\nm.main()\n"
    )
    words = ["sh", "-c", f'{before}exec "$0" -c "$1"', sys.executable, program]

    result = run(Command(words, cwd=ROOT), check=False)

    assert result.returncode == code
    assert ("interrupted: " in result.stderr.decode()) == (code != 0)


@pytest.mark.processes("python")
@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (["cluster", "validate", "no-such"], 2, "error: no cluster named 'no-such'"),
        (["no-such-verb"], 2, "No such command"),
        (["--help"], 0, "Usage"),
    ],
    ids=["bad name", "bad verb", "help"],
)
def test_exit_codes(arguments: list[str], code: int, shown: str) -> None:
    command = Command([sys.executable, "-m", "kubekiln", *arguments], cwd=ROOT)

    result = run(command, check=False)

    assert result.returncode == code
    assert shown in (result.stdout + result.stderr).decode()
    assert "Traceback" not in result.stderr.decode()
