"""``spread``: the settings of a search whose collection is spread over a Ray cluster.

In a pipeline file::

    collection: ./wiki
    spread: {shards: 4, ray: "10.0.0.5:6379", partial: ok}

What it does stands in ``rag.collection.spread``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Spread(BaseModel, frozen=True, extra="forbid"):
    """By how many actors of which cluster a collection is searched."""

    shards: int = Field(
        ge=1, description="How many actors, each with some of the collection's segments."
    )
    ray: str = Field(
        "local",
        min_length=1,
        description="The cluster: HOST:PORT of its head, or local for one of this process's own.",
    )
    partial: Literal["fail", "ok"] = Field(
        "fail",
        description="While an actor that died is started again: searches fail, or their answers "
        "say that they are partial.",
    )
