# SPDX-License-Identifier: Apache-2.0
"""How does YAML become a frozen model, with every mistake reported at its line?"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
import yaml
from pydantic import BeforeValidator, ConfigDict
from pydantic_core import ErrorDetails, PydanticCustomError

from kubekiln.errors import ConfigError, Problem

Key = str | int
KeyPath = tuple[Key, ...]


class Model(pydantic.BaseModel):
    """Base of all configuration: frozen, strict about unknown keys, documented on the field."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )


ModelT = TypeVar("ModelT", bound=Model)


def invalid(what: str, *, hint: str | None = None, at: Sequence[Key] = ()) -> PydanticCustomError:
    """Make the error a validator raises; `at` is a path below the value that is validated."""
    context: dict[str, Any] = {"hint": hint or "", "at": list(at), "what": what}
    return PydanticCustomError("kubekiln", "{what}", context)


def _version_text(value: object) -> object:
    if isinstance(value, float):
        raise invalid(f"version {value} is not quoted", hint=f'YAML read a number: write "{value}"')
    return value


Version = Annotated[str, BeforeValidator(_version_text), pydantic.Field(pattern=r"^\d+(\.\d+)+.*$")]


def _network(value: object) -> object:
    # Python would take a number, or `true`, for an address's bits.
    if isinstance(value, int | float):
        raise invalid(f"{value} is not a network", hint="write it as 10.244.0.0/16")
    if not isinstance(value, str):
        return value
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise invalid(f"{value!r} is not a network", hint="write it as 10.244.0.0/16") from None
    raise invalid(f"{value} has host bits set", hint=f"did you mean {meant}?")


IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
CIDR = Annotated[
    IPNetwork,
    BeforeValidator(_network),
    pydantic.PlainSerializer(str),
    pydantic.WithJsonSchema({"type": "string", "examples": ["10.244.0.0/16"]}),
]


# The parser written in C is ten times as fast (5,000 nodes: 0.6 s); some systems' PyYAML lacks it.
_SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc, valid-type]
    """SafeLoader that refuses a key given twice (YAML 1.2 §3.2.1.3; PyYAML keeps the last)."""


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


class Source:
    """A YAML file as data plus the line of every key in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from error
        try:
            self.root = yaml.compose(text, Loader=_Loader)
            self.data = yaml.load(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise ConfigError(
                f"not valid YAML: {error.problem}",
                where=f"{path}:{mark.line + 1}" if mark else str(path),
                hint="indent with spaces, quote text that has ': ' or starts with a special sign",
            ) from error
        except (yaml.YAMLError, TypeError, ValueError) as error:
            # Without a mark: unprintable characters, a list as a key, a date such as 2026-13-01.
            first = str(error).partition("\n")[0]
            raise ConfigError(f"not valid YAML: {first}", where=str(path)) from error

    def line(self, path: KeyPath) -> int:
        """Give the 1-based line of the deepest part of `path` that is in the file."""
        node, line = self.root, 1
        for key in path:
            child = _child(node, key)
            if child is None:
                break
            line, node = child
        return line

    def where(self, path: KeyPath) -> str:
        """Name a place as `file:line (key.path)`."""
        dotted = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path).lstrip(".")
        return f"{self.path}:{self.line(path)}" + (f" ({dotted})" if dotted else "")

    def present(self, path: KeyPath) -> KeyPath:
        """Shorten a path to what is in the file: a default has no line of its own."""
        while path and not self.has(path):
            path = path[:-1]
        return path

    def has(self, path: KeyPath) -> bool:
        """Tell whether all of `path` is in the file."""
        node = self.root
        for key in path:
            child = _child(node, key)
            if child is None:
                return False
            node = child[1]
        return True


def _child(node: yaml.Node | None, key: Key) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if key_node.value == str(key):
                return key_node.start_mark.line + 1, value_node
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line + 1, node.value[key]
    return None


def load_model(
    model: type[ModelT], path: Path, *, extra: Mapping[str, Any] | None = None
) -> ModelT:
    """Read a YAML file into `model`.

    `extra` adds keys that the file doesn't give (such as a name taken from the file's own).
    Raises ConfigError with every problem of the file at once, sorted by line.
    """
    source = Source(path)
    data = {} if source.data is None else source.data
    if not isinstance(data, dict):
        raise ConfigError(f"{path.name} is not a mapping of keys", where=f"{path}:1")
    try:
        return model.model_validate({**(extra or {}), **data})
    except pydantic.ValidationError as error:
        found = [(_locate(source, d), d) for d in error.errors(include_url=False)]
        problems = {_problem(source, at, d, model): source.line(at) for at, d in found}
        raise ConfigError.of(sorted(problems, key=lambda p: (problems[p], p.what))) from error


def _locate(source: Source, details: ErrorDetails) -> KeyPath:
    """Drop what pydantic puts into a path that isn't in the file (union members, types)."""
    path: KeyPath = ()
    parts = [*details["loc"], *details.get("ctx", {}).get("at", [])]
    for index, key in enumerate(parts):
        if source.has((*path, key)) or (index == len(parts) - 1 and details["type"] == "missing"):
            path = (*path, key)
    return path


def _problem(source: Source, at: KeyPath, details: ErrorDetails, model: type[Model]) -> Problem:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    where = source.where(at)
    if kind == "kubekiln":
        return Problem(context["what"], where, context["hint"] or None)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(at[-1] if at else ""), _field_names(model), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "configs/schema lists the keys"
        return Problem(f"unknown key {at[-1] if at else '?'!r}", where, hint)
    if kind == "missing":
        return Problem(f"required key {details['loc'][-1]!r} is missing", where)
    shown = "" if isinstance(value, dict | list) else f"{value!r}: "
    message = details["msg"]
    return Problem(f"{shown}{message[0].lower()}{message[1:]}", where)


def _field_names(model: type[pydantic.BaseModel], seen: frozenset[type] = frozenset()) -> set[str]:
    names: set[str] = set()
    if model in seen:
        return names
    for name, field in model.model_fields.items():
        names.add(field.alias or name)
        for inner in _models_in(field.annotation):
            names |= _field_names(inner, seen | {model})
    return names


def _models_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [m for arg in getattr(annotation, "__args__", ()) for m in _models_in(arg)]
