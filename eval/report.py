"""Measure a pipeline on a dataset."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rag
from rag.eval import measures as measuring
from rag.eval.datasets import Dataset, load
from rag.eval.results import Results, batches

if TYPE_CHECKING:
    from rich.table import Table

    from rag.jobs import Progress
    from rag.pipeline import Pipeline

LISTED = 5
"""Failures that a table lists; the JSON form has all."""


@dataclass(frozen=True)
class Report:
    """What a pipeline is worth on a dataset.

    Attributes:
        dataset: Name of the dataset.
        split: Which judgements, or None.
        pipeline: Name of the pipeline.
        collection: Identity of the collection searched, or None.
        questions: How many questions were asked.
        measures: Name to mean.
        counts: Name to the number of questions that the mean is over.
        per_question: Value of each measure by question id.
        failed: Message by id of each question that failed in a stage; its measures are 0.
        run: Ranked (document, score) by question id, as measured; empty lists where none.
        answers: Answer by question id; empty unless answers were measured.
        seconds: Wall clock of the pipeline, opening included.
    """

    dataset: str
    split: str | None
    pipeline: str
    collection: str | None
    questions: int
    measures: dict[str, float]
    counts: dict[str, int]
    per_question: dict[str, dict[str, float]]
    failed: dict[str, str]
    run: dict[str, list[tuple[str, float]]]
    answers: dict[str, str | None]
    seconds: float

    def table(self) -> Table:
        """The measures for a person."""
        from rich.markup import escape
        from rich.table import Table

        split = f" ({self.split})" if self.split else ""
        table = Table(title=escape(f"{self.pipeline} on {self.dataset}{split}"))
        table.add_column("measure")
        table.add_column("mean", justify="right")
        table.add_column("questions", justify="right")
        for name, value in self.measures.items():
            table.add_row(name, f"{value:.4f}", f"{self.counts[name]:,}")
        notes = [f"{self.questions:,} questions in {self.seconds:.1f} s"]
        if self.failed:
            notes.append(f"{len(self.failed):,} failed and count 0:")
            notes += [f"{name}: {why}" for name, why in list(self.failed.items())[:LISTED]]
        table.caption = escape("\n".join(notes))
        return table

    def to_json(self) -> dict[str, Any]:
        """The report as plain values, without what is kept per question."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "pipeline": self.pipeline,
            "collection": self.collection,
            "questions": self.questions,
            "failed": len(self.failed),
            "errors": dict(self.failed),
            "measures": dict(self.measures),
            "counts": dict(self.counts),
            "seconds": round(self.seconds, 3),
            "versions": {
                "ragstone": rag.__version__,
                "ir-measures": version("ir-measures"),
                "python": platform.python_version(),
            },
        }


def evaluate(
    dataset: Dataset | Path | str,
    pipeline: Pipeline,
    *,
    measures: Sequence[str] | None = None,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Ask a dataset's questions and measure what comes back.

    By default ``documents`` are measured by nDCG@10, R@100 and RR@10 where the dataset has
    judgements, and ``answer`` by EM and F1 where it has gold answers. Documents are measured by
    falling score, which is not their reading order after ``reorder``; ties keep their order.
    Where the judgements name documents and the collection holds passages of them, a document
    stands where its best passage does. A judged document that the collection lacks stays in the
    ideal ranking. A question that failed in a stage counts 0 in every measure.

    Args:
        dataset: A dataset, or its folder.
        pipeline: The pipeline; it stays open.
        measures: By ir-measures' names (``nDCG@10``, ``AP``), trec_eval's, ``EM`` or ``F1``.
        workers: Processes that answer; default: this one alone, and on Ray as many as there is
            room for. The dataset is then read from its folder, and the collection from its own.
        ray: Answer on a Ray cluster: ``local``, or the address of one (docs/ray.md).
        progress: Called with ("questions", done, total).

    Raises:
        InvalidInput: a measure is unknown or cannot be computed here, or none of the judged
            documents is in the collection.
    """
    data = dataset if isinstance(dataset, Dataset) else load(dataset)
    names = measuring.choose(measures, data, pipeline.columns.types)
    by_rank = [name for name in names if name not in measuring.ANSWERS]
    by_answer = [name for name in names if name in measuring.ANSWERS]
    asked = {*(data.qrels if by_rank else ()), *(data.answers if by_answer else ())}
    questions = {name: text for name, text in data.questions.items() if name in asked}
    results = Results(data.qrels if by_rank else {}, answered=bool(by_answer))
    start = time.perf_counter()
    if ray is None and workers in (None, 1):
        for done, batch in batches(questions, pipeline):
            results.take(batch)
            if progress is not None:
                progress("questions", done, len(questions))
    else:
        from rag.eval.work import spread

        kept: dict[str, Any] = {"ranked": bool(by_rank), "answered": bool(by_answer)}
        kept |= {"workers": workers, "ray": ray, "progress": progress}
        for some in spread(data, questions, pipeline, **kept):
            results.add(some)
            if progress is not None:
                progress("questions", len(results.run or results.answers), len(questions))
        results.sort(questions)
    seconds = time.perf_counter() - start
    values = []
    if by_rank:
        values.append(measuring.retrieval(by_rank, data.qrels, results.run))
    if by_answer:
        values.append(measuring.answers(by_answer, data.answers, results.answers))
    means = {name: value for part in values for name, value in part.means.items()}
    each: dict[str, dict[str, float]] = {query: {} for query in questions}
    for part in values:
        for query, its in part.each.items():
            each[query] |= its
    return Report(
        dataset=data.name,
        split=data.split,
        pipeline=pipeline.name,
        collection=results.collection or _identity(pipeline),
        questions=len(questions),
        measures={name: means[name] for name in names},
        counts={name: sum(name in its for its in each.values()) for name in names},
        per_question=each,
        failed=results.failed,
        run=results.run,
        answers=results.answers,
        seconds=seconds,
    )


def _identity(pipeline: Pipeline) -> str | None:
    """The collection of a pipeline whose rankings were not measured."""
    return None if pipeline.collection is None else pipeline.snapshot.identity
