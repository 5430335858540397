"""What the options of ``rag search`` and ``rag ask`` change in a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from rag.errors import InvalidInput

if TYPE_CHECKING:
    from rag.batch import Hit
    from rag.pipeline import Pipeline
    from rag.stage import Stage
    from rag.where import Where


def condition(text: str) -> Where:
    """The ``--where`` of a command line: a mapping in YAML, ``{year: {gte: 1990}}``.

    Raises:
        InvalidInput: it is no YAML, or no condition.
    """
    from rag.where import Where

    example = "write for example --where '{year: {gte: 1990}, lang: en}'"
    try:
        said = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = getattr(error, "problem", None) or type(error).__name__
        raise InvalidInput(f"--where {text!r}: {why}; {example}") from None
    if not isinstance(said, Mapping):
        raise InvalidInput(f"--where {text!r}: found no mapping; {example}")
    return Where(said)


def changed(pipeline: Pipeline, settings: Mapping[str, Any]) -> Pipeline:
    """The pipeline with ``settings`` in all its stages that know them, nested ones included.

    A ``where`` is joined with the stage's own: both must hold.

    Raises:
        InvalidInput: no stage knows one of the settings.
    """
    from rag.pipeline import Pipeline

    for name in settings:
        if not any(name in type(stage).model_fields for stage in every(pipeline.stages)):
            raise InvalidInput(
                f"--{name}: pipeline {pipeline.name!r} has no stage with the setting {name!r}; "
                "bm25 has it"
            )
    return Pipeline(
        [_changed(stage, settings) for stage in pipeline.stages],
        pipeline.collection,
        on_error=pipeline.on_error,
        name=pipeline.name,
        spread=pipeline.spread,
        resources=pipeline.resources,
    )


def every(stages: Sequence[Stage]) -> Iterator[Stage]:
    """All stages, those inside others too, in order."""
    for stage in stages:
        yield stage
        for inner in _nested(stage).values():
            yield from every(inner)


def check(hits: Sequence[Hit], pipeline: Pipeline, where: Where) -> None:
    """Refuse passages that ``where`` excludes: a stage has brought them that takes no filter."""
    mask = pipeline.snapshot.matching(where)
    if mask is None:
        return
    numbers = pipeline.snapshot.find([hit.id for hit in hits])
    for hit, number in zip(hits, numbers.tolist(), strict=True):
        if number >= 0 and not mask[number]:
            raise InvalidInput(
                f"pipeline {pipeline.name!r} found passage {hit.id!r}, which --where excludes: one "
                "of its stages takes no filter; search with a pipeline of bm25"
            )


def _nested(stage: Stage) -> dict[str, Sequence[Stage]]:
    values = dict(stage)
    return {key: values[key] for key in stage.nests(values)}


def _changed(stage: Stage, settings: Mapping[str, Any]) -> Stage:
    from rag.where import Where

    update: dict[str, Any] = {
        key: tuple(_changed(inner, settings) for inner in stages)
        for key, stages in _nested(stage).items()
    }
    for name, value in settings.items():
        if name not in type(stage).model_fields:
            continue
        own = getattr(stage, name)
        if name == "where" and own is not None:
            value = Where({"all": [own.mapping, value.mapping]})
        update[name] = value
    return stage.model_copy(update=update)
