# SPDX-License-Identifier: Apache-2.0
"""How is one entry of a person's kubeconfig changed without touching the others?

The YAML is edited as a tree of nodes and not as values: what we don't understand, and how numbers
and strings are written, stays as it is. (Comments go, as with `kubectl config`; a backup is kept.)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from kubekiln.errors import ConfigError, StorageError
from kubekiln.files import make_parent, storage_errors, write_atomic
from kubekiln.yamltext import dump

KINDS = ("clusters", "users", "contexts")
_BODIES = {"clusters": "cluster", "users": "user", "contexts": "context"}
_EXTENSION = "kubekiln"
_EMPTY = (
    "apiVersion: v1\nkind: Config\nclusters: []\nusers: []\ncontexts: []\ncurrent-context: ''\n"
)
_LOCK_S = 5.0


class _Loader(yaml.SafeLoader):
    """Takes every scalar as text: what a person wrote without quotes is written so again."""

    yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` has read."""

    yaml_implicit_resolvers = {}


class KubeconfigFile:
    """A kubeconfig that is being changed; `owner` marks the entries that are ours."""

    def __init__(self, path: Path, owner: str) -> None:
        self.path, self.owner = path, owner
        try:
            text = path.read_text() if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read it: {error}", where=str(path), hint="set KUBECONFIG to another file"
            ) from error
        self._before = text
        try:
            root = yaml.compose(text if text.strip() else _EMPTY, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"not valid YAML: {str(error).partition(chr(10))[0]}", where=str(path)
            ) from error
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError("not a kubeconfig: no mapping of keys", where=str(path))
        self._root = root

    def put(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Add an entry, or replace ours of the same name; raises ConfigError if it isn't ours.

        Of a context the keys that the entry doesn't have stay.
        """
        entries, name = self._entries(kind), str(entry["name"])
        mark = [{"name": _EXTENSION, "extension": {"owner": self.owner}}]
        body = {**entry[_BODIES[kind]], "extensions": mark}
        for index, there in enumerate(entries.value):
            if _plain(there).get("name") == name:
                self._refuse_foreign(kind, there, name)
                # What the user set on it since, such as a context's namespace, is theirs.
                body = {**_plain(there)[_BODIES[kind]], **body} if kind == "contexts" else body
                entries.value[index] = _node({"name": name, _BODIES[kind]: body})
                return
        entries.value.append(_node({"name": name, _BODIES[kind]: body}))

    def remove_ours(self) -> None:
        """Remove every entry of this owner; a current context that was ours is no longer set."""
        for kind in KINDS:
            entries = self._entries(kind)
            ours = [there for there in entries.value if self._is_ours(kind, there)]
            entries.value = [there for there in entries.value if there not in ours]
            names = [_plain(there)["name"] for there in ours]
            if kind == "contexts" and self.current_context in names:
                self.current_context = ""

    @property
    def current_context(self) -> str:
        """The context that kubectl takes when none is named; empty if there is none."""
        return str(_plain(self._root).get("current-context") or "")

    @current_context.setter
    def current_context(self, name: str) -> None:
        self._set("current-context", _node(name))

    def save(self) -> bool:
        """Write the file if anything changed, and what it was to `…-before-kubekiln`."""
        text = _serialize(self._root)
        if self._before and yaml.safe_load(text) == yaml.safe_load(self._before):
            return False
        # Where it really is: people keep theirs elsewhere and link to it.
        real = self.path.resolve()
        if self._before and not self._has_ours_before():
            backup = real.with_name(f"{real.name}-before-kubekiln")
            write_atomic(backup, self._before, mode=0o600)
        write_atomic(real, text, mode=0o600)
        return True

    def _has_ours_before(self) -> bool:
        """Tell whether the file had entries of kubekiln's: then its backup is an earlier one."""
        before = yaml.safe_load(self._before)
        entries = (one for kind in KINDS for one in before.get(kind) or [] if isinstance(one, dict))
        bodies = (body for entry in entries for body in entry.values() if isinstance(body, dict))
        marks = (mark for body in bodies for mark in body.get("extensions") or [])
        return any(isinstance(m, dict) and m.get("name") == _EXTENSION for m in marks)

    def _entries(self, kind: str) -> yaml.SequenceNode:
        for key, value in self._root.value:
            if key.value == kind and isinstance(value, yaml.SequenceNode):
                if not value.value:
                    value.flow_style = False
                return value
        made = yaml.SequenceNode("tag:yaml.org,2002:seq", [], flow_style=False)
        self._set(kind, made)
        return made

    def _set(self, name: str, node: yaml.Node) -> None:
        others = [(key, value) for key, value in self._root.value if key.value != name]
        before = [key.value for key, _ in self._root.value]
        at = before.index(name) if name in before else len(others)
        self._root.value = [*others[:at], (_node(name), node), *others[at:]]

    def _is_ours(self, kind: str, entry: yaml.Node) -> bool:
        body = _plain(entry).get(_BODIES[kind]) or {}
        marks = {e.get("name"): e.get("extension") for e in body.get("extensions") or []}
        mark = marks.get(_EXTENSION) or {}
        return bool(mark.get("owner") == self.owner)

    def _refuse_foreign(self, kind: str, entry: yaml.Node, name: str) -> None:
        if not self._is_ours(kind, entry):
            what = _BODIES[kind]
            raise ConfigError(
                f"there is a {what} named {name!r} already that isn't this cluster's",
                where=f"{self.path} ({kind})",
                hint=f"`kubectl config delete-{what} {name}` removes it; or set KUBECONFIG to "
                "another file",
            )


@contextlib.contextmanager
def opened(path: Path, owner: str) -> Iterator[KubeconfigFile]:
    """Give a kubeconfig to change, holding the lock file that kubectl respects as well."""
    make_parent(path, mode=0o700)
    with storage_errors(path):
        lock = path.with_name(f"{path.name}.lock")
        os.close(_lock(lock, path))
    try:
        yield KubeconfigFile(path, owner)
    finally:
        lock.unlink(missing_ok=True)


def _lock(lock: Path, path: Path) -> int:
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            return os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"another program is changing {path}",
                    where=str(lock),
                    hint="if none is (kubectl may have been killed), remove that file",
                ) from None
        time.sleep(0.05)


def _node(value: Any) -> Any:
    return yaml.compose(dump(value), Loader=_Loader)


def _plain(node: yaml.Node) -> dict[str, Any]:
    found = yaml.safe_load(_serialize(node))
    return found if isinstance(found, dict) else {}


def _serialize(node: yaml.Node) -> str:
    return str(yaml.serialize(node, Dumper=_Dumper, width=1 << 20))
