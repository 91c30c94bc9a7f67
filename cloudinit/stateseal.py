# SPDX-License-Identifier: Apache-2.0
"""How does the state rest encrypted on this host, and who can open it?

In the format of age (https://age-encryption.org/v1), as a whole: the tools of age open it as well.
Identities and passphrases come from files or a terminal, never from arguments or configuration.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cloudinit.statefile import StateError
from cloudinit.statemodel import Encryption
from kubekiln.paths import age_identities_file, passphrase_file
from kubekiln.secret import Secret

if TYPE_CHECKING:
    from pyrage import x25519

_AGE = b"age-encryption.org/v1\n"
_SCRYPT = _AGE + b"-> scrypt "
_IDENTITY = "AGE-SECRET-KEY-1"
PASSPHRASE = "passphrase"


class Seal:
    """Opens and closes one cluster's state; asks for a passphrase once at most."""

    def __init__(self, encryption: Encryption, *, cluster: str) -> None:
        self._recipients = encryption.recipients
        self._wants_passphrase = encryption.passphrase
        self._may_decrypt = encryption.decrypt
        self._cluster = cluster
        self._known: Secret | None = None

    @property
    def sealed_for(self) -> tuple[str, ...]:
        """Who is to be able to open it, as the configuration says."""
        return (PASSPHRASE,) if self._wants_passphrase else tuple(sorted(self._recipients))

    def refuse_decrypting(self, before: Sequence[str], *, where: Path) -> None:
        """Raise StateError if the state would rest in the clear only as nothing is said of it."""
        if before and not self.sealed_for and not self._may_decrypt:
            raise StateError(
                f"the state of cluster {self._cluster} is encrypted, and its config says nothing "
                f"of that: it would rest in the clear (now: {_described(before)})",
                where=str(where),
                hint="write `state.encryption` as it was; or `decrypt: true` there, if you mean it",
            )

    def change(self, before: Sequence[str]) -> Iterator[str]:
        """Say so if others are to be able to open it than before."""
        if tuple(before) != self.sealed_for:
            yield (
                f"the state of cluster {self._cluster} is now {_described(self.sealed_for)}; "
                f"it was {_described(before)}"
            )

    def prepare(self) -> None:
        """Ask now for what `close` will need: later there is a progress display in the way."""
        if self._wants_passphrase and self._known is None:
            self._known = self._read_passphrase(is_new=True)

    def open(self, content: bytes, *, path: Path) -> bytes:
        """Decrypt what `close` gave, under whatever configuration; raises StateError."""
        if not content.startswith(_AGE):
            return content
        if content.startswith(_SCRYPT):
            return self._open_by_passphrase(content, path)
        return self._open_by_identity(content, path)

    def close(self, content: bytes) -> bytes:
        """Encrypt as the configuration wants it; unchanged if it wants nothing."""
        import pyrage

        self.prepare()
        if self._wants_passphrase and self._known is not None:
            return bytes(pyrage.passphrase.encrypt(content, self._known.reveal_text()))
        if not self._recipients:
            return content
        recipients = [pyrage.x25519.Recipient.from_str(text) for text in self._recipients]
        return bytes(pyrage.encrypt(content, recipients))

    def _open_by_passphrase(self, content: bytes, path: Path) -> bytes:
        import pyrage

        passphrase = self._read_passphrase(is_new=False)
        try:
            opened: bytes = pyrage.passphrase.decrypt(content, passphrase.reveal_text())
        except pyrage.DecryptError:
            raise StateError(
                f"the passphrase does not open the state of cluster {self._cluster}",
                where=str(path),
                hint="or the file is damaged: then restore it from a backup",
            ) from None
        self._known = passphrase
        return opened

    def _open_by_identity(self, content: bytes, path: Path) -> bytes:
        import pyrage

        source = age_identities_file()
        identities = read_identities(source)
        try:
            opened: bytes = pyrage.decrypt(content, identities)
        except pyrage.DecryptError as error:
            raise StateError(
                f"no identity in {source} opens the state of cluster {self._cluster}: {error}",
                where=str(path),
                hint="KUBEKILN_AGE_KEY_FILE names the file with yours",
            ) from None
        return opened

    def _read_passphrase(self, *, is_new: bool) -> Secret:
        source = passphrase_file()
        if source is not None:
            found = _read_key_file(source, "passphrase").removesuffix("\n")
        elif sys.stdin.isatty():
            found = _ask(f"Passphrase of the state of cluster {self._cluster}: ", twice=is_new)
        else:
            raise StateError(
                f"the state of cluster {self._cluster} needs a passphrase, and this is no terminal",
                hint="KUBEKILN_STATE_PASSPHRASE_FILE names a file that holds it",
            )
        if not found.strip():
            raise StateError("the passphrase is empty", where=str(source) if source else None)
        return Secret(found)


def read_identities(path: Path) -> Sequence[x25519.Identity]:
    """Read the age identities of a file as `age-keygen` writes it; raises StateError."""
    import pyrage

    lines = [line.strip() for line in _read_key_file(path, "age identities").splitlines()]
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.startswith(_IDENTITY):
            # Comments, and kinds of identities that other programs keep in the same file.
            continue
        try:
            found.append(pyrage.x25519.Identity.from_str(line))
        except pyrage.IdentityError:
            raise StateError("not an age identity", where=f"{path}:{number}") from None
    if not found:
        raise StateError(
            f"{path} holds no age identity",
            where=str(path),
            hint=f"a line of it begins with {_IDENTITY}; `age-keygen` makes one",
        )
    return found


def _described(sealed_for: Sequence[str]) -> str:
    if PASSPHRASE in sealed_for:
        return "encrypted by a passphrase"
    return f"encrypted for {', '.join(sealed_for)}" if sealed_for else "in the clear"


def _read_key_file(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise StateError(
            f"cannot read the {what} from {path}: {reason}",
            hint="KUBEKILN_AGE_KEY_FILE (or SOPS_AGE_KEY_FILE) names the file of age identities, "
            "KUBEKILN_STATE_PASSPHRASE_FILE that of the passphrase",
        ) from None


def _ask(prompt: str, *, twice: bool) -> str:
    answer = getpass.getpass(prompt)
    if twice and getpass.getpass("Once more: ") != answer:
        raise StateError("the two passphrases differ", hint="nothing was written; try again")
    return answer
