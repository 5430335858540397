"""The stage ``extract``: the answer is a part of a passage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import Field, model_validator

from rag.errors import InvalidInput, RagError
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag.batch import Batch
    from rag.readers.passages import Found, Passage


class Reader(Protocol):
    """Finds the answer to a question in passages; called from several threads."""

    label: str

    def read(self, question: str, given: Sequence[Passage]) -> Found | None:
        """The answer, or None where there is none."""


class Extract(Stage, name="extract"):
    """Answer with a part of a passage, word for word.

    With a ``model``: its most probable span (``rag.readers.spans.best_span``). Without one: the
    sentence that shares most with the question (``rag.readers.overlap.OverlapReader``), which
    answers no question but shows where the answer is likely to stand.

    Besides the answer it writes ``confidence``, 0 to 1 and comparable only within one way of
    reading; ``citations``, the one place that the answer stands at, whose marker is the rank of its
    passage; and ``route``: ``extract: MODEL``, or ``sentence overlap (no reader model)``. Where
    nothing is found the answer is null and the confidence 0. Texts that an earlier stage rewrote
    are read as they are stored, since only stored text has places to cite.
    """

    of: str = Field("documents", description="The ranking whose passages are read.")
    into: str = Field("answer", description="The column that the answer is written to.")
    model: str | None = Field(
        None,
        description="A SQuAD-style model of transformers, by folder or hub name; needs the extra "
        "'models'. Without one the answer is a whole sentence, and the column route says so.",
    )
    passages: int = Field(5, gt=0, description="How many of the best passages are read.")
    max_length: int = Field(384, gt=0, description="Tokens of question and window together.")
    stride: int = Field(128, ge=0, description="Tokens that neighbouring windows share.")
    longest_answer: int = Field(30, gt=0, description="The most tokens of an answer.")
    unanswerable: bool = Field(
        False,
        description="The model was trained on unanswerable questions too (SQuAD 2): it may find "
        "that there is no answer.",
    )
    batch_size: int = Field(16, gt=0, description="The most windows at a time.")
    device: str | None = Field(None, description="cpu, cuda, ...; default: cuda where it is.")

    @model_validator(mode="after")
    def _windows_move_on(self) -> Self:
        if self.stride >= self.max_length:
            raise InvalidInput(
                f"stride ({self.stride}) must be below max_length ({self.max_length})"
            )
        return self

    def columns(self, have: Columns) -> Columns:
        """Needs a ranking; writes the answer and where it stands."""
        kinds = {self.into: "str", "confidence": "float", "citations": "citations"}
        return have.need(self.of, type="ranking").put(**kinds, route="str")

    def open(self, context: Context) -> Step:
        """Load the model, if one is named."""
        reader = self._reader(context)

        def step(batch: Batch, run: Run) -> Batch:
            from rag.readers.passages import passages

            rows = zip(batch["question"], passages(batch[self.of], self.passages), strict=True)
            written = [_read(reader, row, *pair, run) for row, pair in enumerate(rows)]
            names = (self.into, "confidence", "citations", "route")
            columns = zip(*written, strict=True) if written else ((),) * len(names)
            return batch.put(**dict(zip(names, columns, strict=True)))

        return step

    def _reader(self, context: Context) -> Reader:
        if self.model is None:
            from rag.readers.overlap import OverlapReader

            return OverlapReader()
        from rag.readers.spans import Loaded, SpanReader

        model, device = self.model, self.device
        key = ("question answering", model, device)
        return SpanReader(self, context.get(key, lambda: Loaded(model, device)))


def _read(
    reader: Reader, row: int, question: str, given: Sequence[Passage], run: Run
) -> tuple[Any, ...]:
    from rag.readers.cite import cited

    try:
        found = reader.read(question, given) if given else None
    except RagError as error:
        run.fail(row, error)
        found = None
    if found is None:
        return None, 0.0, (), reader.label
    citation = cited(found.passage.rank, found.passage, found.start, found.end)
    return found.text, found.confidence, (citation,), reader.label
