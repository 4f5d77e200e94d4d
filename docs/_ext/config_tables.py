"""Tables of the fields of configuration classes: type, bounds, default and meaning."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Iterator, Mapping
from typing import Any

import pydantic
from page_parts import code, options_table, parse_docstring

WORDS = {"boolean": "true or false", "object": "table", "null": "nothing"}


def config_table(cls: Any, omitted: Container[str] = (), kind: str = "key") -> str:
    """Table of the fields of a configuration; its docstring describes them."""
    return options_table([kind, "type", "default", "meaning"], _rows(cls, omitted))


def _rows(cls: Any, omitted: Container[str]) -> Iterator[list[str]]:
    schema = pydantic.TypeAdapter(cls).json_schema()
    _, sections = parse_docstring(cls)
    texts = sections["Attributes"]
    required = schema.get("required", ())
    for field in dataclasses.fields(cls):
        if field.name in omitted:
            continue
        if field.name not in texts:
            raise ValueError(f"the docstring of {cls.__name__} lacks {field.name}")
        default = "required" if field.name in required else _default(field)
        described = _describe(schema["properties"][field.name] | _bounds(cls, field.name))
        yield [code(field.name), described, default, texts[field.name]]


def _bounds(cls: Any, name: str) -> dict[str, float]:
    """The tightest bounds of a number: pydantic's schema has only one of several."""
    metadata = getattr(cls, "__pydantic_fields__", {}).get(name)
    found: dict[str, float] = {}
    for each in metadata.metadata if metadata else ():
        if getattr(each, "ge", None) is not None:
            found["minimum"] = max(each.ge, found.get("minimum", each.ge))
        if getattr(each, "le", None) is not None:
            found["maximum"] = min(each.le, found.get("maximum", each.le))
    return found


def _default(field: Any) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if isinstance(value, pydantic.fields.FieldInfo):
        value = value.get_default(call_default_factory=True)
    if dataclasses.is_dataclass(value):
        return "its defaults"
    return "" if value is None else code(json.dumps(value))


def _describe(schema: Mapping[str, Any]) -> str:
    """Type and bounds of a field in words."""
    if "$ref" in schema or "allOf" in schema:
        return "table"
    if "anyOf" in schema:
        kinds = [_describe(each) for each in schema["anyOf"]]
        return " or ".join(each for each in kinds if each != "nothing")
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
        return ", ".join(code(json.dumps(each)) for each in values)
    kind = str(schema.get("type", "any value"))
    if kind == "array":
        return f"list ({_describe(schema.get('items', {}))})"
    names = (
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
    )
    bounds = [f"{sign} {_number(schema[name])}" for name, sign in names if name in schema]
    return ", ".join([WORDS.get(kind, kind), *bounds])


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else str(value)
