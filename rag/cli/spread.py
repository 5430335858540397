"""The options of a search that is spread over a Ray cluster, and how partial answers are shown."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rag.pipeline import Pipeline
    from rag.spread import Spread


class Partial(StrEnum):
    """What a search does while a shard is away."""

    fail = "fail"
    ok = "ok"


OfRay = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Search by actors of a Ray cluster: 'local' starts one, HOST:PORT names one.",
        show_default=False,
    ),
]
OfShards = Annotated[
    int | None,
    typer.Option(
        "--shards",
        min=1,
        help="How many actors, each with some of the segments; default: as the file says.",
        show_default=False,
    ),
]
OfPartial = Annotated[
    Partial | None,
    typer.Option(
        "--partial",
        help="While an actor that died is started again: 'fail' (the default), or 'ok': print what "
        "the others find, and say so.",
        show_default=False,
    ),
]


def spread(
    pipeline: Pipeline, ray: str | None, shards: int | None, partial: Partial | None
) -> Pipeline:
    """The pipeline, with its collection spread as the options say; they go before its file's.

    Raises:
        InvalidInput: neither the options nor the file say how many shards there are to be.
    """
    from rag.errors import InvalidInput
    from rag.spread import Spread

    given = {"ray": ray, "shards": shards, "partial": None if partial is None else partial.value}
    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        return pipeline
    before = {} if pipeline.spread is None else pipeline.spread.model_dump()
    if "shards" not in before | given:
        raise InvalidInput(
            f"--{next(iter(given))}: say with --shards N by how many actors the collection is "
            "searched"
        )
    pipeline.spread = Spread.model_validate(before | given)
    return pipeline


def may_be_partial(pipeline: Pipeline) -> bool:
    """Whether answers may be partial; what is printed as JSON then has a place that says so."""
    how: Spread | None = pipeline.spread
    return how is not None and how.partial == "ok"


def warn(partial: str | None) -> None:
    """Say on the terminal what was not searched."""
    if partial is not None:
        print(f"warning: partial: {partial}", file=sys.stderr)
