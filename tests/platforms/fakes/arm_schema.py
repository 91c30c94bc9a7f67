# SPDX-License-Identifier: Apache-2.0
"""Is a request's body one that Azure's API knows, by the shapes that its libraries publish?

The libraries' `types` modules are generated from Azure's API specification: every property with
its name in JSON, and every enumeration. Whatever isn't in them is refused, as Azure refuses it.
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def faults(body: Any, shape: Any, library: ModuleType, path: str = "") -> Iterator[str]:
    """Name every place of `body` that isn't of the shape, a type hint of the library."""
    shape = _resolved(shape, library)
    inner = typing.get_args(shape)
    if typing.get_origin(shape) in (typing.Required, typing.NotRequired):
        yield from faults(body, inner[0], library, path)
    elif typing.get_origin(shape) is typing.Union:
        yield from _of_union(body, inner, library, path)
    elif typing.get_origin(shape) in (list, dict):
        yield from _of_container(body, shape, library, path)
    elif typing.is_typeddict(shape):
        yield from _of_object(body, shape, library, path)
    elif shape in (str, bool, int, float) and type(body) is not shape:
        yield f"{path} is {body!r}, and no {shape.__name__}"


def _of_container(body: Any, shape: Any, library: ModuleType, path: str) -> Iterator[str]:
    kind, inner = typing.get_origin(shape), typing.get_args(shape)
    if not isinstance(body, kind):
        yield f"{path} is no {kind.__name__}"
        return
    pairs = body.items() if kind is dict else enumerate(body)
    for key, one in pairs:
        yield from faults(one, inner[-1], library, f"{path}[{key}]")


def _of_object(body: Any, shape: Any, library: ModuleType, path: str) -> Iterator[str]:
    if not isinstance(body, dict):
        yield f"{path} is no object"
        return
    known = shape.__annotations__
    for key, value in body.items():
        if key not in known:
            yield f"could not find member '{key}' on object of type '{shape.__name__}' at {path}"
        else:
            yield from faults(value, known[key], library, f"{path}.{key}")
    for key in shape.__required_keys__ - set(body):
        yield f"{path}.{key} is missing"


def _of_union(body: Any, inner: tuple[Any, ...], library: ModuleType, path: str) -> Iterator[str]:
    resolved = [_resolved(one, library) for one in inner]
    enums = [one for one in resolved if isinstance(one, type) and issubclass(one, enum.Enum)]
    if enums and isinstance(body, str):
        values = {str(value.value).lower() for one in enums for value in one}
        if body.lower() not in values:
            yield f"{path} is {body!r}, and none of {sorted(values)}"
        return
    tried = [list(faults(body, one, library, path)) for one in resolved]
    if all(tried):
        yield from tried[0]


def _resolved(shape: Any, library: ModuleType) -> Any:
    name = shape.__forward_arg__ if isinstance(shape, typing.ForwardRef) else shape
    if not isinstance(name, str):
        return shape
    names = {**vars(library.models), **vars(library.types)}
    return eval(name, {**vars(typing), "list": list, "dict": dict, **names})
