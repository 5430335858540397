"""Control flow: the stages that hold stages.

``branch`` runs several lists from the same batch, ``unless`` spares rows a list, ``repeat`` runs a
list several times, ``pipeline`` runs another pipeline. They nest, and keep the contract of any
stage: a row that fails in a stage inside is parked there and reported under that stage's name,
models are shared, and columns are checked when the pipeline is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from rag.chain import Chain, columns_after
from rag.conditions import check, holds
from rag.errors import InvalidInput
from rag.flow_steps import BranchStep, RepeatStep, UnlessStep
from rag.nesting import StageList
from rag.stage import Columns, Context, Stage, Step
from rag.where import Where

if TYPE_CHECKING:
    from rag.pipeline import Pipeline

_SIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


Nothing = Annotated[None, Field(description="Not used: the stages inside say what they read.")]
NothingWritten = Annotated[
    None, Field(description="Not used: the stages inside say what they write.")
]
Searched = Annotated[
    str | None, Field(description="The collection of the stages inside; default: the pipeline's.")
]


def _nested(settings: Mapping[str, Any]) -> list[str]:
    """The key ``stages``, where it is there."""
    return [key for key in ("stages",) if key in settings]


class Branch(Stage, name="branch"):
    """Run several lists of stages, each from the same batch.

    Each key is a side with its stages: ``branch: {small: [...], large: [...]}``. A column that a
    side adds gets the side's name: ``small.answer``. A column that was there before keeps its name
    if one side writes it; two sides that write it are an error. A row that fails in one side skips
    the sides after it.
    """

    of: Nothing = None
    into: NothingWritten = None
    collection: Searched = None
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, StageList]

    if TYPE_CHECKING:

        def __init__(self, **settings: Any) -> None:
            """Each further keyword is a side: a list of stages."""

    @classmethod
    def nests(cls, settings: Mapping[str, Any]) -> list[str]:
        """Every key that is no setting of its own."""
        return [key for key in settings if key not in cls.model_fields]

    @property
    def sides(self) -> dict[str, Sequence[Stage]]:
        """Name to stages, in order."""
        return dict(self.__pydantic_extra__)

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.sides:
            raise InvalidInput("a branch has no side; write branch: {small: [...], large: [...]}")
        for name in self.sides:
            if not _SIDE.fullmatch(name):
                raise InvalidInput(
                    f"the side {name!r} cannot name columns; use letters, digits, _ and -"
                )
        return self

    def columns(self, have: Columns) -> Columns:
        """The columns before it, and those that each side adds, by the side's name."""
        after, writers = have, dict[str, str]()
        for side, stages in self.sides.items():
            made = columns_after(stages, begun(have))
            for name in sorted(made.written):
                kept = name if name in have.types else f"{side}.{name}"
                if kept in writers:
                    raise InvalidInput(
                        f"stage {self.label!r}: the sides {writers[kept]!r} and {side!r} both "
                        f"write column {kept!r}, which was there before; give one of them into: ..."
                    )
                if kept != name and kept in have.types:
                    raise InvalidInput(
                        f"stage {self.label!r}: column {kept!r} is there already; "
                        f"rename the side {side!r}"
                    )
                writers[kept] = side
                after = after.put(**{kept: made.types[name]})
        return after

    def open(self, context: Context) -> Step:
        """Open the stages of all sides."""
        inner, chains = context.within(self.collection), dict[str, Chain]()
        try:
            for side, stages in self.sides.items():
                chains[side] = Chain.open(stages, inner)
        except BaseException:
            BranchStep(self.label, chains).close()
            raise
        return BranchStep(self.label, chains)


class Unless(Stage, name="unless"):
    """Spare the rows for which a condition holds the stages inside.

    A column that only those stages write is null in the rows that skip them.
    """

    of: Nothing = None
    into: NothingWritten = None
    collection: Searched = None
    when: Where = Field(
        description="Rows for which it holds skip: {confidence: {gte: 0.8}} over columns, as in "
        "where; {answered: true} is an answer that is neither null nor empty."
    )
    stages: StageList = Field(description="The stages that the other rows run through.")

    @classmethod
    def nests(cls, settings: Mapping[str, Any]) -> list[str]:
        """The key ``stages``."""
        return _nested(settings)

    def columns(self, have: Columns) -> Columns:
        """Needs the columns of the condition; adds those of the stages inside."""
        check(self.when, have, f"stage {self.label!r}: when")
        return same_types(columns_after(self.stages, begun(have)), have)

    def open(self, context: Context) -> Step:
        """Open the stages inside."""
        return UnlessStep(
            Chain.open(self.stages, context.within(self.collection)),
            lambda batch: holds(self.when, batch),
        )


class Repeat(Stage, name="repeat"):
    """Run the stages inside several times; a row leaves as soon as ``until`` holds for it.

    ``keep`` names rankings that are united over the rounds: after each round the column holds the
    passages of this and all earlier rounds, each with its best score, by falling score. What a
    ranking held before the first round is not among them. ``trace`` writes a struct
    ``{"rounds": [...]}`` with one object a round: the row's values of the columns that the stages
    changed, before they are united, with a ranking as the ids of its passages.
    """

    of: Nothing = None
    into: NothingWritten = None
    collection: Searched = None
    times: int = Field(ge=1, description="The most rounds.")
    until: Where | None = Field(
        None, description="Rows for which it holds after a round are done; as unless has it."
    )
    keep: tuple[str, ...] = Field((), description="Rankings that are united over the rounds.")
    trace: str | None = Field(
        None, description="The column that the rounds are written to.", min_length=1
    )
    stages: StageList = Field(description="The stages of a round.")

    @classmethod
    def nests(cls, settings: Mapping[str, Any]) -> list[str]:
        """The key ``stages``."""
        return _nested(settings)

    def columns(self, have: Columns) -> Columns:
        """Adds the columns of the stages inside, and ``trace``."""
        if self.trace is not None and self.trace in have.types:
            raise InvalidInput(
                f"stage {self.label!r}: trace: column {self.trace!r} is there already"
            )
        after = same_types(columns_after(self.stages, begun(have)), have)
        after.need(*self.keep, type="ranking")
        if self.until is not None:
            check(self.until, after, f"stage {self.label!r}: until")
        same_types(columns_after(self.stages, after), after)  # a second round must be possible
        if self.trace is not None and self.trace in after.types:
            raise InvalidInput(
                f"stage {self.label!r}: trace: a stage inside writes column {self.trace!r} too"
            )
        return after if self.trace is None else after.put(**{self.trace: "struct"})

    def open(self, context: Context) -> Step:
        """Open the stages inside, once for all rounds."""
        return RepeatStep(Chain.open(self.stages, context.within(self.collection)), self)


class SubPipeline(Stage, name="pipeline"):
    """Run the stages of another pipeline: ``pipeline: other.yaml``, or a shipped one by name.

    Its stages search its own collection, or where it names none that of the pipeline around it,
    whose ``on_error`` holds for all.
    """

    of: Nothing = None
    into: NothingWritten = None
    collection: Searched = None
    stages: StageList = Field(description="The stages of the other pipeline.")

    @classmethod
    def nests(cls, settings: Mapping[str, Any]) -> list[str]:
        """The key ``stages``."""
        return _nested(settings)

    @model_validator(mode="before")
    @classmethod
    def _loaded(cls, value: Any) -> Any:
        from rag.pipeline import Pipeline

        if not isinstance(value, str):
            return value
        return cls.of_pipeline(Pipeline.load(value)).model_dump()

    @classmethod
    def of_pipeline(cls, pipeline: Pipeline) -> SubPipeline:
        """The settings of a ``Pipeline``; see ``Pipeline.as_stage``."""
        from rag.collection import Collection

        place = pipeline.collection
        if pipeline.spread is not None:
            raise InvalidInput(
                f"pipeline {pipeline.name!r} is used as a stage and has 'spread'; give that to the "
                "pipeline around it"
            )
        if isinstance(place, Collection):
            place = place.path
        elif place is not None and not hasattr(place, "__fspath__") and not isinstance(place, str):
            raise InvalidInput(
                f"pipeline {pipeline.name!r} is used as a stage and holds a snapshot; give the "
                "snapshot to the pipeline around it, which hands it to all its stages"
            )
        return cls(
            name=pipeline.name,
            collection=None if place is None else str(place),
            stages=pipeline.stages,
        )

    def columns(self, have: Columns) -> Columns:
        """The columns after the stages inside."""
        return columns_after(self.stages, have)

    def open(self, context: Context) -> Step:
        """Open the stages inside."""
        return Chain.open(self.stages, context.within(self.collection))


def begun(have: Columns) -> Columns:
    """The columns before a list of stages, of which nothing is written yet."""
    return replace(have, written=frozenset())


def same_types(after: Columns, have: Columns) -> Columns:
    """``after``, if the columns that were there keep their types; with what was written before.

    Rows that skip the stages stand in one column with those that do not.

    Raises:
        InvalidInput: a stage inside writes a column as another type.
    """
    for name, kind in have.types.items():
        if after.types[name] != kind:
            raise InvalidInput(
                f"stage {have.stage!r}: stage {after.writers[name]!r} inside it writes column "
                f"{name!r} as {after.types[name]}, and before it the column is {kind}; "
                "write another column (into: ...)"
            )
    return replace(after, written=have.written | after.written)
