"""What is kept of the batches that a pipeline gives back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag.batch import Batch
from rag.eval.judged import judged_column, to_run
from rag.ranking import Ranking

if TYPE_CHECKING:
    from rag.pipeline import Pipeline

CHUNK = 256
"""Questions that run at once; it bounds memory, and paces the progress."""


def batches(questions: Mapping[str, str], pipeline: Pipeline) -> Iterator[tuple[int, Batch]]:
    """The questions through the pipeline, ``CHUNK`` at once, with how many are done."""
    names = list(questions)
    for start in range(0, len(names), CHUNK):
        part = names[start : start + CHUNK]
        yield start + len(part), pipeline.run(Batch.of([questions[n] for n in part], part))


@dataclass
class Results:
    """The run, the answers and the failures, by question id.

    A question that failed in a stage keeps neither documents nor an answer.

    Args:
        qrels: The judgements; empty where no ranking is measured.
        answered: Whether answers are measured.
    """

    qrels: Mapping[str, Mapping[str, int]]
    answered: bool
    collection: str | None = None
    run: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    answers: dict[str, str | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    _column: str = ""

    def take(self, batch: Batch) -> None:
        """Keep what is needed of a batch."""
        errors = batch["error"]
        for name, error in zip(batch.ids, errors, strict=True):
            if error is not None:
                self.failed[name] = f"stage {error['stage']!r}: {error['message']}"
        # What a part of the collection was not searched for says nothing of the pipeline.
        partial = batch["partial"] if "partial" in batch else (None,) * len(batch)
        self.failed |= {n: f"partial: {s}" for n, s in zip(batch.ids, partial, strict=True) if s}
        good = [row for row, name in enumerate(batch.ids) if name not in self.failed]
        # Where all rows failed before the stage that writes it, a column is not there.
        if self.qrels:
            self.run |= {name: [] for name in batch.ids}
            if "documents" in batch and isinstance(batch["documents"], Ranking):
                self._rank([batch.ids[row] for row in good], batch["documents"].take(good))
        if self.answered:
            self.answers |= dict.fromkeys(batch.ids)
            if "answer" in batch:
                self.answers |= {batch.ids[row]: batch["answer"][row] for row in good}

    def add(self, other: Results) -> None:
        """Keep what another has kept of other questions."""
        self.run |= other.run
        self.answers |= other.answers
        self.failed |= other.failed
        self.collection = self.collection or other.collection

    def sort(self, questions: Mapping[str, str]) -> None:
        """Put what is kept into the order of the questions."""
        self.run = {name: self.run[name] for name in questions if name in self.run}
        self.answers = {name: self.answers[name] for name in questions if name in self.answers}
        self.failed = {name: self.failed[name] for name in questions if name in self.failed}

    def _rank(self, ids: Sequence[str], documents: Ranking) -> None:
        if not self._column:
            self._column = judged_column(self.qrels, documents.snapshot)
            self.collection = documents.snapshot.identity
        self.run |= to_run(ids, documents, self._column, self.qrels)
