# SPDX-License-Identifier: Apache-2.0
"""Is what a node says on its console understood, however the console garbles it?"""

from __future__ import annotations

from pathlib import Path

from pipeline.targets.console import last_lines, parse_console, read_console
from pipeline.targets.machine import ConsoleReport, Phase


def test_phases_are_read_with_their_times() -> None:
    text = (
        "[  OK  ] Started something\r\n"
        "KUBEKILN phase=userdata t=1.9 node=solo-1\r\n"
        "[    4.2] kernel noise\n"
        "KUBEKILN phase=activated t=2.3 node=solo-1\r\n"
    )

    report = parse_console(text)

    assert report.phases == (Phase("userdata", 1.9), Phase("activated", 2.3))
    assert not report.complete


def test_a_line_behind_colours_or_another_writers_text_is_still_read() -> None:
    text = "\x1b[0;32m  OK  \x1b[0m half a line KUBEKILN phase=api t=3.8 node=a\x1b[K\r\n"

    assert parse_console(text).phases == (Phase("api", 3.8),)


def test_a_closed_gate_gives_every_reason() -> None:
    text = (
        'KUBEKILN gate=closed reason="/etc/kubernetes/pki/ca.crt: sha256 differs"\n'
        'KUBEKILN gate=closed reason="units: etcd.service is missing"\n'
    )

    assert parse_console(text).refusals == (
        "/etc/kubernetes/pki/ca.crt: sha256 differs",
        "units: etcd.service is missing",
    )


def test_a_gate_that_opened_after_all_is_no_refusal() -> None:
    report = parse_console(
        "KUBEKILN phase=userdata t=4.0 node=lab-1\n"
        'KUBEKILN gate=closed reason="DHCP gave 10.80.0.99" t=20.0 node=lab-1\n'
        "KUBEKILN gate=open t=50.0 node=lab-1\n"
        "KUBEKILN phase=activated t=50.0 node=lab-1\n"
    )

    assert report.refusals == ()
    assert report.has("activated")


def test_a_reboot_starts_a_new_report() -> None:
    first = "KUBEKILN phase=userdata t=1.9 node=a\nKUBEKILN phase=ready t=9.0 node=a\n"
    done = "KUBEKILN complete t=9.5 node=a\n"

    report = parse_console(first + done + "KUBEKILN phase=userdata t=1.0 node=a\n")

    assert report.phases == (Phase("userdata", 1.0),)
    assert not report.complete
    assert parse_console(first + done).complete


def test_a_line_that_is_cut_in_two_is_passed_over() -> None:
    text = "KUBEKILN phase=ready t=\nKUBEKILN phase=ready t=8.4 node=a\n"

    assert parse_console(text).phases == (Phase("ready", 8.4),)


def test_failing_units_are_named_with_their_last_words() -> None:
    text = 'KUBEKILN failing unit=etcd.service state=failed last="disk full"\n'

    assert parse_console(text).failing == ("etcd.service is failed: disk full",)


def test_a_console_that_is_not_there_yet_says_nothing(tmp_path: Path) -> None:
    assert read_console(tmp_path / "console.log") == ConsoleReport()
    assert last_lines(tmp_path / "console.log", 5) == []


def test_the_last_lines_are_shown_without_control_sequences(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("one\r\n\x1b[31mtwo\x1b[0m\r\n\r\nthree\r\n")

    assert last_lines(log, 2) == ["two", "three"]
