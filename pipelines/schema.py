"""The JSON schema of the files, for editors: completion, hover texts and errors while typing."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from rag import registry
from rag.nesting import STAGE_SCHEMA

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
STAGE_REFERENCE = {"$ref": "#/$defs/Stage"}


def json_schema(kind: Literal["pipeline", "index", "recipe"] | None = None) -> dict[str, Any]:
    """The schema of pipeline files, of index files, of recipes, or (None) of all.

    Stages and index types are the built-in ones: what a plugin brings is known only where it is
    installed, and a schema is made to be passed on.
    """
    shared: dict[str, Any] = {}
    makers = {"pipeline": _pipeline, "index": _index, "recipe": _recipe}
    made = {name: make(shared) for name, make in makers.items() if kind in (None, name)}
    body = made[kind] if kind is not None else {"oneOf": list(made.values())}
    title = f"Ragstone {kind or 'pipeline, index or recipe'} file"
    return {"$schema": _DRAFT, "title": title, **body, "$defs": dict(sorted(shared.items()))}


def _pipeline(shared: dict[str, Any]) -> dict[str, Any]:
    from rag.pipelines.load import PipelineFile

    schema = _hoisted(PipelineFile, shared)
    names = sorted(registry.BUILT_IN["stages"])
    items: list[dict[str, Any]] = [{"enum": names, "description": "A stage with its defaults."}]
    for name in names:
        settings = _hoisted(registry.find("stages", name), shared)
        items.append(_single(name, settings))
        if name == "pipeline":  # a file stands for its settings
            items[-1]["properties"][name] = {"oneOf": [{"type": "string"}, settings]}
    shared["Stage"] = {"oneOf": items}
    for name, definition in shared.items():
        shared[name] = _with_stages(definition)
    schema["properties"]["stages"]["items"] = STAGE_REFERENCE
    return schema


def _with_stages(part: Any) -> Any:
    """A part of a schema with the stages where a list of them stands inside a stage."""
    if part == STAGE_SCHEMA:
        return STAGE_REFERENCE
    if isinstance(part, dict):
        return {key: _with_stages(value) for key, value in part.items()}
    return [_with_stages(value) for value in part] if isinstance(part, list) else part


def _index(shared: dict[str, Any]) -> dict[str, Any]:
    from rag.pipelines.index import IndexHead
    from rag.sources import Source, Split

    schema = _hoisted(IndexHead, shared)
    places = schema["properties"]
    places["source"]["oneOf"] = [{"type": "string"}, _hoisted(Source, shared)]
    places["split"] = {"oneOf": [_hoisted(Split, shared), {"type": "null"}]}
    kinds = []
    for name in sorted(registry.BUILT_IN["indexes"]):
        settings = _hoisted(registry.find("indexes", name), shared)
        settings["properties"] = {"type": {"const": name}, **settings.get("properties", {})}
        settings["required"] = ["type", *settings.get("required", ())]
        kinds.append(settings)
    places["indexes"]["additionalProperties"] = {"oneOf": kinds}
    return schema


def _recipe(shared: dict[str, Any]) -> dict[str, Any]:
    from rag.training.recipe import Data, RecipeHead

    schema = _hoisted(RecipeHead, shared)
    places = schema["properties"]
    text: dict[str, Any] = {"type": "string"}
    places["data"]["oneOf"] = [text, _hoisted(Data, shared), {"type": "null"}]
    names = sorted(registry.BUILT_IN["objectives"])
    forms = [_single(name, _hoisted(registry.find("objectives", name), shared)) for name in names]
    places["objective"]["oneOf"] = [{"enum": names}, *forms]
    return schema


def _single(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The mapping of one stage's name to its settings; null stands for the defaults."""
    form = settings if settings.get("required") else {"oneOf": [settings, {"type": "null"}]}
    return {
        "type": "object",
        "description": settings.get("description", ""),
        "properties": {name: form},
        "required": [name],
        "additionalProperties": False,
    }


def _hoisted(model: type[BaseModel], shared: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model; definitions that it refers to go to the ``shared`` ones."""
    schema = model.model_json_schema(ref_template="#/$defs/{model}")
    shared |= schema.pop("$defs", {})
    return schema
