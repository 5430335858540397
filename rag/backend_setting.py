"""The key ``backend`` of a stage: a name with its settings, checked by the backend's own class."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler, PlainSerializer, PlainValidator, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from rag import registry
from rag.backend import Backend
from rag.errors import InvalidInput

_FORM = "a backend is a name, or one name with its settings: {llama_cpp: {model: smollm2}}"


def _backend(value: Any) -> Backend:
    if isinstance(value, Backend):
        return value
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping) or len(value) != 1:
        found = f"the keys {', '.join(map(str, value))}" if isinstance(value, Mapping) else value
        raise InvalidInput(f"found {found!r}; {_FORM}")
    name, settings = next(iter(value.items()))
    cls: type[Backend] = registry.find("backends", str(name))
    try:
        # As strict JSON, so that "5" is no number and yet a list may become a tuple.
        return cls.model_validate_json(json.dumps(settings or {}), strict=True)
    except TypeError:
        raise InvalidInput(f"the settings of {name!r} are no plain values; {_FORM}") from None
    except ValidationError as error:
        lines = [_below(str(name), cls, dict(one)) for one in error.errors()]
        raise ValidationError.from_exception_data(cls.__name__, lines) from None


def _below(name: str, cls: type[Backend], error: dict[str, Any]) -> InitErrorDetails:
    """An error of the settings as one below the backend's name, so that its place is found."""
    kind: str | PydanticCustomError = error["type"]
    if kind == "extra_forbidden":
        known = sorted(cls.model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        message = f"unknown key{hint} (allowed: {', '.join(known)})"
        kind = PydanticCustomError("unknown_setting", "{message}", {"message": message})
    return InitErrorDetails(
        type=kind, loc=(name, *error["loc"]), input=error["input"], ctx=error.get("ctx", {})
    )


def _mapping(backend: Backend) -> dict[str, Any]:
    return {backend.kind: backend.model_dump(mode="json")}


class _Schema:
    """The schema of the built-in backends, for editors."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = sorted(registry.BUILT_IN["backends"])
        forms = [
            {
                "type": "object",
                "properties": {name: registry.find("backends", name).model_json_schema()},
                "required": [name],
                "additionalProperties": False,
            }
            for name in names
        ]
        return {"oneOf": [{"enum": names}, *forms]}


BackendSetting = Annotated[
    Backend,
    PlainValidator(_backend),
    PlainSerializer(_mapping, return_type=dict[str, Any]),
    _Schema,
]
"""A field for a backend: YAML's ``{name: settings}``, a name alone, or a ``Backend``."""
