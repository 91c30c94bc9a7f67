# SPDX-License-Identifier: Apache-2.0
"""How is a secret carried so that it can't be printed by accident?"""

from __future__ import annotations


class Secret:
    """Bytes that show as `***` wherever they are formatted; compare and hash by value."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """Give the bytes themselves; call it only where they are written or used."""
        return self._value

    def reveal_text(self) -> str:
        """Give the secret as UTF-8 text."""
        return self._value.decode()

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")
