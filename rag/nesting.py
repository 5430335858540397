"""The setting of a stage that holds stages: a list of them, in YAML, JSON and Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from rag import registry
from rag.errors import InvalidInput
from rag.stage import Stage

FORM = "a stage is a name, or one name with its settings: 'bm25: {top_k: 100}'"
STAGE_SCHEMA = {"$comment": "a stage"}
"""What stands for a stage in a JSON schema; ``rag.pipelines.schema`` puts the stages there."""


def as_stage(value: Any) -> Stage:
    """A stage from itself, a ``Pipeline``, a name, or a name with its settings.

    Raises:
        InvalidInput: it is none of these, or the name is not known.
    """
    if isinstance(value, Stage):
        return value
    from rag.pipeline import Pipeline

    if isinstance(value, Pipeline):
        return value.as_stage()
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{value!r} is not a Stage (forgot the call?); {FORM}")
    if len(value) != 1:
        raise InvalidInput(f"found the keys {', '.join(map(str, value))}; {FORM}")
    name, settings = next(iter(value.items()))
    cls: type[Stage] = registry.find("stages", str(name))
    settings = {} if settings is None else settings
    try:
        text = json.dumps(settings)
    except TypeError:  # Python values, such as stages in a list
        return cls.model_validate(settings)
    # As strict JSON, as YAML is read: "5" is no number, and yet a list may become a tuple.
    return cls.model_validate_json(text, strict=True)


def as_mapping(stage: Stage) -> dict[str, Any]:
    """The stage as a name with its settings; ``as_stage`` reads it.

    Raises:
        InvalidInput: its class has no name.
    """
    if not stage.kind:
        cls = type(stage).__name__
        raise InvalidInput(
            f"the stage {cls} has no name to be written by; write class {cls}(Stage, name='...')"
        )
    return {stage.kind: stage.model_dump(mode="json")}


AnyStage = Annotated[
    Stage,
    PlainValidator(as_stage),
    PlainSerializer(as_mapping, return_type=dict[str, Any]),
    WithJsonSchema(STAGE_SCHEMA),
]
StageList = Annotated[Sequence[AnyStage], Field(min_length=1), AfterValidator(tuple)]
"""A field for stages in order; it reads what YAML has, and holds a tuple of ``Stage``."""
