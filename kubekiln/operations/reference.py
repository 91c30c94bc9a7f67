# SPDX-License-Identifier: Apache-2.0
"""Which reference pages and schemas follow from the code, so that they can't drift from it?

`make docs` writes them; a house test compares them with what the code says today.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from kubekiln.config import Model
from kubekiln.files import write_atomic
from kubekiln.paths import Project

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_GENERATED = "<!-- Written by `make docs` from the code; edit that, not this page. -->\n"


def models() -> dict[str, tuple[type[Model], str]]:
    """Name the root models: schema name → (model, what files of it say)."""
    from cloudinit.model import Cluster
    from pipeline.components import Components
    from pipeline.lock import Lock
    from pipeline.model import Image
    from pipeline.targets.catalog import PLATFORMS, settings_model

    targets = {
        f"target-{kind}": (
            settings_model(kind),
            f"A target of type `{kind}`: `configs/targets/*.yaml`",
        )
        for kind in sorted(PLATFORMS)
    }
    return {
        "cluster": (Cluster, "A cluster: `configs/clusters/*.yaml`"),
        "components": (Components, "Wanted components: `configs/components.yaml`"),
        "components-lock": (Lock, "Pinned components: `configs/components.lock.yaml`"),
        "image": (Image, "A golden image: `configs/images/*.yaml`"),
        **targets,
    }


def documents() -> dict[str, str]:
    """Give every generated file: path below the project → content."""
    out: dict[str, str] = {}
    page = [_GENERATED, "# Configuration reference\n"]
    for name, (model, title) in models().items():
        schema = model.model_json_schema(by_alias=True, mode="validation")
        schema = {"$schema": _DRAFT, "$comment": "Written by `make docs`", **schema}
        # The loader takes it from the file's own name.
        schema["required"] = [key for key in schema["required"] if key != "name"]
        out[f"configs/schema/{name}.schema.json"] = json.dumps(schema, indent=2) + "\n"
        page += [f"## {title}\n", *_tables(schema)]
    out["docs/reference/configuration.md"] = "\n".join(page)
    out["docs/reference/commands.md"] = commands_page()
    return out


def _tables(schema: dict[str, Any]) -> Iterator[str]:
    definitions = schema.get("$defs", {})
    yield from _table(schema)
    for name in sorted(definitions):
        definition = definitions[name]
        if "properties" in definition:
            yield f"### {name}\n"
            yield from _table(definition)


def _table(schema: dict[str, Any]) -> Iterator[str]:
    if schema.get("description"):
        yield f"{schema['description'].strip()}\n"
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    required = schema.get("required", [])
    for key, field in schema.get("properties", {}).items():
        default = "required" if key in required else f"`{json.dumps(field.get('default'))}`"
        meaning = " ".join(field.get("description", "").split())
        yield f"| `{key}` | {_type(field)} | {default} | {_cell(meaning)}{_examples(field)} |"
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _examples(field: dict[str, Any]) -> str:
    shown = ", ".join(f"`{json.dumps(e)}`" for e in field.get("examples", []))
    return _cell(f" E.g. {shown}.") if shown else ""


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "enum" in field:
        return _cell(" | ".join(f"`{value}`" for value in field["enum"]))
    if "const" in field:
        return f"`{field['const']}`"
    for union in ("anyOf", "oneOf", "allOf"):
        if union in field:
            return _cell(" | ".join(_type(part) for part in field[union]))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    if field.get("type") == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"map to {_type(field['additionalProperties'])}"
    return str(field.get("type", "any"))


def commands_page() -> str:
    """List each verb with its help, arguments and options, read from the command line itself."""
    from kubekiln.cli.main import app

    lines = [_GENERATED, "# Command reference\n"]
    for path, command in _commands("kubekiln", typer.main.get_command(app)):
        lines += [f"## `{path}`\n", (command.help or "").replace("\b", "").strip() + "\n"]
        rows = [_parameter(p) for p in command.params if p.name != "help"]
        if rows:
            lines += ["| argument, option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Walk typer's command tree (its classes are private: asked for what they can do)."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name in sorted(below):
        yield from _commands(f"{path} {name}", below[name])


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        shown = ", ".join(f"`{o}`" for o in (*parameter.opts, *parameter.secondary_opts))
    else:
        shown = f"`{(parameter.name or '').upper()}`"
    default = "required" if parameter.required else f"`{parameter.default}`"
    meaning = " ".join((getattr(parameter, "help", "") or "").split())
    return f"| {shown} | {_cell(default)} | {_cell(meaning)} |"


def main() -> None:
    """Write every generated file of the project."""
    project = Project.find(Path(__file__).parent)
    for path, content in documents().items():
        write_atomic(project.root / path, content)


if __name__ == "__main__":
    main()
