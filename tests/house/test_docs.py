# SPDX-License-Identifier: Apache-2.0
"""Do the docs say what the code does?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pydantic
import pytest
import yaml

from kubekiln.operations.reference import documents, models

ROOT = Path(__file__).resolve().parents[2]


def pages() -> list[Path]:
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert len(found) > 5
    return found


@pytest.mark.parametrize("path", sorted(documents()))
def test_the_reference_is_what_the_code_says(path: str) -> None:
    assert (ROOT / path).read_text() == documents()[path], "run `make docs`"


def models_within(model: type[pydantic.BaseModel]) -> set[type[pydantic.BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        todo = [field.annotation]
        while todo:
            annotation = todo.pop()
            todo += getattr(annotation, "__args__", ())
            if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
                found |= models_within(annotation)
    return found


@pytest.mark.parametrize("name", sorted(models()))
def test_every_field_is_documented(name: str) -> None:
    bare = [
        f"{model.__name__}.{key}"
        for model in models_within(models()[name][0])
        for key, field in model.model_fields.items()
        if not field.description
    ]
    assert bare == []


def test_every_config_names_its_schema_for_the_editor() -> None:
    found = [
        p for p in sorted((ROOT / "configs").rglob("*.yaml")) if p.parent.name in
        ("images", "clusters") or p.name == "components.yaml"
    ]  # fmt: skip
    assert len(found) >= 3
    for path in found:
        first = path.read_text().splitlines()[0]
        match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
        assert match, path
        assert (path.parent / match[1]).resolve().is_file(), path


def test_every_config_is_valid_by_the_schema_it_names() -> None:
    found = [p for p in sorted((ROOT / "configs").rglob("*.yaml")) if p.parent.name != "addons"]
    assert len(found) >= 4
    for path in found:
        text = path.read_text()
        named = re.search(r"\$schema=(\S+)", text.splitlines()[0])
        assert named, path
        schema = json.loads((path.parent / named[1]).resolve().read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(yaml.safe_load(text), schema)


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_yaml_examples_in_the_docs_parse(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        list(yaml.safe_load_all(block))


def test_every_make_door_of_the_docs_exists() -> None:
    doors = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        door
        for page in pages()
        for line in page.read_text().splitlines()
        for door in re.findall(r"(?:^|`|\$ )\s*make ([a-z][a-z0-9-]+)", line)
    }
    assert {"up", "test"} <= named
    assert named - doors == set()
