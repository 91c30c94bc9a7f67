# SPDX-License-Identifier: Apache-2.0
"""Can only those open the state at rest whom the configuration names?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pyrage
import pytest

from cloudinit import stateseal
from cloudinit.render import check_state
from cloudinit.rules import load_cluster
from cloudinit.state import StateError
from cloudinit.statefile import decode
from kubekiln.errors import ConfigError
from tests.support.clusters import (
    cluster_data,
    make_cluster,
    make_project,
    render,
    snapshot,
    write_cluster,
)

MARKS = (b"PRIVATE KEY", b"BEGIN CERTIFICATE", b"kubekiln-state", b"service-account")


def sealed(*identities: Any) -> dict[str, Any]:
    return {"encryption": {"recipients": [str(i.to_public()) for i in identities]}}


@pytest.fixture
def identity() -> Any:
    return pyrage.x25519.Identity.generate()


@pytest.fixture
def key_file(tmp_path: Path, identity: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What age-keygen writes, named as users of sops name it."""
    path = tmp_path / "home" / "keys.txt"
    path.parent.mkdir()
    path.write_text(f"# created: 2026-11-23\n# public key: {identity.to_public()}\n{identity}\n")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(path))
    monkeypatch.delenv("KUBEKILN_AGE_KEY_FILE", raising=False)
    return path


def state_of(root: Path) -> bytes:
    return (root / "state" / "lab" / "state").read_bytes()


def build_of(root: Path) -> dict[str, bytes]:
    return snapshot(root / "build")


def test_nothing_of_a_sealed_state_is_in_the_clear(
    tmp_path: Path, identity: Any, key_file: Path
) -> None:
    render(tmp_path)
    assert all(mark in state_of(tmp_path) for mark in MARKS), "the marks are those of a state"

    render(tmp_path, state=sealed(identity))

    assert state_of(tmp_path).startswith(b"age-encryption.org/v1\n")
    assert not any(mark in state_of(tmp_path) for mark in MARKS)
    assert (tmp_path / "state" / "lab" / "state").stat().st_mode & 0o777 == 0o600


def test_sealing_and_unsealing_change_no_node(
    tmp_path: Path, identity: Any, key_file: Path
) -> None:
    render(tmp_path)
    clear, nodes = state_of(tmp_path), build_of(tmp_path)

    render(tmp_path, state=sealed(identity))
    assert build_of(tmp_path) == nodes
    render(tmp_path, state={"encryption": {"decrypt": True}})

    assert build_of(tmp_path) == nodes
    assert state_of(tmp_path) == clear


def test_leaving_out_encryption_decrypts_nothing(
    tmp_path: Path, identity: Any, key_file: Path
) -> None:
    render(tmp_path, state=sealed(identity))
    before = snapshot(tmp_path)

    with pytest.raises(StateError, match="is encrypted, and its config says nothing") as error:
        render(tmp_path)
    with pytest.raises(StateError, match="is encrypted, and its config says nothing"):
        check_state(make_cluster(), make_project(tmp_path))

    assert "decrypt: true" in str(error.value)
    assert snapshot(tmp_path) == before


def test_rendering_says_who_can_open_the_state_from_then_on(
    tmp_path: Path, identity: Any, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    render(tmp_path)
    render(tmp_path)
    assert "the state of" not in capsys.readouterr().err

    render(tmp_path, state=sealed(identity))
    said = f"is now encrypted for {identity.to_public()}; it was in the clear"
    assert said in capsys.readouterr().err
    render(tmp_path, state=sealed(identity))
    assert "the state of" not in capsys.readouterr().err
    render(tmp_path, state={"encryption": {"decrypt": True}})
    assert "is now in the clear; it was encrypted" in capsys.readouterr().err


def test_a_sealed_state_that_did_not_change_is_not_written_again(
    tmp_path: Path, identity: Any, key_file: Path
) -> None:
    render(tmp_path, state=sealed(identity))
    before = state_of(tmp_path)

    render(tmp_path, state=sealed(identity))

    assert state_of(tmp_path) == before


def test_other_recipients_in_the_configuration_seal_it_anew(
    tmp_path: Path, identity: Any, key_file: Path
) -> None:
    other = pyrage.x25519.Identity.generate()
    render(tmp_path, state=sealed(identity))

    render(tmp_path, state=sealed(other))

    opened = pyrage.decrypt(state_of(tmp_path), [other])
    assert decode(opened, path=tmp_path, cluster="lab").sealed_for == (str(other.to_public()),)
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(state_of(tmp_path), [identity])


def test_without_a_fitting_identity_nothing_is_rendered_and_nothing_printed(
    tmp_path: Path, identity: Any, key_file: Path
) -> None:
    render(tmp_path, state=sealed(identity))
    stranger = pyrage.x25519.Identity.generate()
    key_file.write_text(f"{stranger}\n")
    before = snapshot(tmp_path)

    with pytest.raises(StateError, match="no identity in .*keys.txt opens") as error:
        render(tmp_path, state=sealed(identity))

    assert "KUBEKILN_AGE_KEY_FILE" in str(error.value)
    assert str(stranger) not in str(error.value) and error.value.__cause__ is None
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read the age identities"),
        ("# nothing\n", "holds no age identity"),
        ("\nAGE-SECRET-KEY-1QQ\n", "not an age identity"),
    ],
    ids=["missing", "empty", "damaged"],
)
def test_a_key_file_that_is_no_use_is_named(
    tmp_path: Path, identity: Any, key_file: Path, content: str | None, said: str
) -> None:
    render(tmp_path, state=sealed(identity))
    key_file.unlink()
    if content is not None:
        key_file.write_text(content)

    with pytest.raises(StateError, match=said) as error:
        render(tmp_path, state=sealed(identity))

    assert str(key_file) in str(error.value) and "1QQ" not in str(error.value)


def test_a_sealed_state_that_is_damaged_is_refused(
    tmp_path: Path, identity: Any, key_file: Path
) -> None:
    render(tmp_path, state=sealed(identity))
    content = state_of(tmp_path)
    (tmp_path / "state" / "lab" / "state").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(StateError, match="opens the state of cluster lab"):
        render(tmp_path, state=sealed(identity))


def test_a_passphrase_opens_it_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse\n")
    monkeypatch.setenv("KUBEKILN_STATE_PASSPHRASE_FILE", str(secret))
    cluster_state = {"encryption": {"passphrase": True}}
    render(tmp_path, state=cluster_state)
    nodes = build_of(tmp_path)
    assert b"-> scrypt" in state_of(tmp_path)[:64]

    render(tmp_path, state=cluster_state)
    assert build_of(tmp_path) == nodes
    secret.write_text("wrong\n")
    with pytest.raises(StateError, match="passphrase does not open") as error:
        render(tmp_path, state=cluster_state)

    assert "wrong" not in str(error.value)


@pytest.fixture
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passphrase is slow on purpose; these tests are about who asks for it, and when."""

    def encrypt(content: bytes, passphrase: str) -> bytes:
        return b"age-encryption.org/v1\n-> scrypt " + f"{passphrase}\n".encode() + content

    monkeypatch.setattr("pyrage.passphrase.encrypt", encrypt)


def answer(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    asked: list[str] = []
    left = list(answers)

    def getpass(prompt: str) -> str:
        asked.append(prompt)
        return left.pop(0)

    monkeypatch.delenv("KUBEKILN_STATE_PASSPHRASE_FILE", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(stateseal.getpass, "getpass", getpass)
    return asked


def test_a_new_passphrase_is_asked_for_twice(
    tmp_path: Path, quick_scrypt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer(monkeypatch, "one", "one")

    render(tmp_path, state={"encryption": {"passphrase": True}})

    assert asked == ["Passphrase of the state of cluster lab: ", "Once more: "]
    assert state_of(tmp_path).split(b"\n")[1] == b"-> scrypt one"


def test_two_different_answers_write_nothing(
    tmp_path: Path, quick_scrypt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "one", "two")

    with pytest.raises(StateError, match="the two passphrases differ"):
        render(tmp_path, state={"encryption": {"passphrase": True}})

    assert not (tmp_path / "state" / "lab").exists() and not (tmp_path / "build").exists()


def test_without_a_terminal_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEKILN_STATE_PASSPHRASE_FILE", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)

    with pytest.raises(StateError, match="needs a passphrase") as error:
        render(tmp_path, state={"encryption": {"passphrase": True}})

    assert "KUBEKILN_STATE_PASSPHRASE_FILE" in str(error.value)


def test_a_wrong_recipient_is_reported_at_its_line(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    state = {"encryption": {"recipients": ["age1nonsense"]}}
    path = write_cluster(project, cluster_data(state=state))

    with pytest.raises(ConfigError, match="'age1nonsense' is not a recipient of age") as error:
        load_cluster(str(path), project)

    assert "(state.encryption.recipients[0])" in str(error.value)


def test_a_state_is_not_encrypted_and_decrypted_at_once(identity: Any) -> None:
    encryption = {"decrypt": True, **sealed(identity)["encryption"]}

    with pytest.raises(pydantic.ValidationError, match="decrypt is given beside"):
        make_cluster(state={"encryption": encryption})


def test_recipients_and_passphrase_exclude_each_other(identity: Any) -> None:
    encryption = {"passphrase": True, **sealed(identity)["encryption"]}

    with pytest.raises(pydantic.ValidationError, match="recipients and passphrase are both given"):
        make_cluster(state={"encryption": encryption})
