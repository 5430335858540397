"""Write the keys of all built-in stages and backends into docs/pipelines.md.

    python docs/stage_tables.py

What stands between the two markers of that page comes from the classes: their docstrings, their
fields with types, defaults and descriptions. A test compares the page with them.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from rag import registry
from rag.stage import Stage

PAGE = Path(__file__).with_name("pipelines.md")
BEGIN, END = "<!-- from docs/stage_tables.py -->", "<!-- end of what is generated -->"
ROOMS = {"rag.retrievers": "Retrieving", "rag.readers": "Reading", "rag": "Stages that hold stages"}

WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true, false",
}


def page(text: str) -> str:
    """The page with what stands between its markers as the classes have it now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{generated()}\n{END}{after}"


def generated() -> str:
    """The sections of all built-in stages by room, then of the backends, in Markdown."""
    parts: list[str] = []
    stages = registry.BUILT_IN["stages"]
    for room, title in ROOMS.items():
        names = [name for name in sorted(stages) if _room(stages[name]) == room]
        parts += [f"## {title}\n"] if names else []
        parts += [section("stages", name) for name in names]
    parts.append("## Backends: what runs a generating model\n")
    parts += [section("backends", name) for name in sorted(registry.BUILT_IN["backends"])]
    return "\n".join(parts)


def _room(target: str) -> str:
    """The room of ``module:class``; control flow lies in ``rag`` itself."""
    return next((room for room in ROOMS if target.startswith(f"{room}.")), "rag")


def section(group: registry.Group, name: str) -> str:
    """One class: its name, its docstring, the table of its keys."""
    cls = registry.find(group, name)
    schema = cls.model_json_schema()
    rows = [
        f"| `{key}` | {_type(field)} | {_default(field, key in schema.get('required', ()))} "
        f"| {_escaped(field.get('description', ''))} |"
        for key, field in schema.get("properties", {}).items()
        if not _common(key, field)
    ]
    head = "| key | takes | default | meaning |\n| --- | --- | --- | --- |\n"
    table = head + "\n".join(rows) + "\n" if rows else "No keys of its own.\n"
    said = re.sub(r"``(.+?)``", r"`\1`", inspect.getdoc(cls) or "", flags=re.DOTALL)
    long = [
        f"\nThe default of `{key}`:\n\n```text\n{field['default']}\n```\n"
        for key, field in schema.get("properties", {}).items()
        if _long(field.get("default"))
    ]
    return "".join([f"### `{name}`\n\n{said}\n\n{table}", *long])


def _common(key: str, field: dict[str, Any]) -> bool:
    """Whether a key means here what it means in every stage, or takes nothing here."""
    if field.get("type") == "null":
        return True
    base = Stage.model_fields.get(key)
    return base is not None and field.get("description") == base.description


def _long(value: Any) -> bool:
    """Whether a default is better shown below the table."""
    return isinstance(value, str) and len(value) > 40


def _default(field: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = field.get("default")
    if value is None or _long(value):
        return "" if value is None else "below"
    return f"`{_escaped(json.dumps(value, ensure_ascii=False))}`"


def _type(field: dict[str, Any]) -> str:
    """What a key takes, in words, from its JSON schema."""
    if "const" in field or "enum" in field:
        values = field.get("enum", [field.get("const")])
        return ", ".join(f"`{value}`" for value in values)
    if "anyOf" in field:
        kinds = [_type(kind) for kind in field["anyOf"] if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}s"
    if "oneOf" in field:
        return "a name, or a name with settings"
    return WORDS.get(field.get("type", ""), "mapping")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Rewrite the page; return the exit code."""
    PAGE.write_text(page(PAGE.read_text("utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
