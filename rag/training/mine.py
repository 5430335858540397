"""``rag mine``: hard negatives for training, as a job that a kill does not undo.

A question of a data set is searched by any pipeline. The passages it finds that do not answer it
are its hard negatives, which a model is to learn to tell from the positives. This is the job of
``rag run`` (``rag.pipelines.run_job``) with one stage more, and so has its parts, keys and workers.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from rag.collapse import shingles
from rag.errors import InvalidInput, NotFound, RagError
from rag.jobs import Progress, silent
from rag.readers.words import normalize
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from rag.batch import Batch
    from rag.collection import Snapshot
    from rag.pipeline import Pipeline
    from rag.pipelines.run_job import RunDone

DEPTH = 200
"""So many passages of a question are looked at: the published recipes of RetroMAE take 200."""

SAME = 0.9
"""Near-equal to a positive is a text of this Jaccard similarity (``rag.collapse``)."""

_FILES = ("queries.jsonl*", "qa.jsonl*", "qrels*.tsv*", "qrels/*.tsv*")
_SAY_NOTHING = frozenset({" yes ", " no ", "  "})


class Negatives(Stage):
    """Tell the positives of each question from its hard negatives in a ranking.

    Written is the ranking of the positives, then of the negatives in the order in which they were
    found; the evidence ``positive`` (bool) tells them apart, and all scores are NaN. No negative is

    - a passage that the judgements grade above 0, nor another part of a document that they do;
    - a passage whose text is nearly that of a positive (a Jaccard similarity of 0.9 or more);
    - a passage that holds a gold answer of the question, where the data set has any, in SQuAD's
      normal form (``yes`` and ``no`` exclude nothing);
    - a document that is called like the question, unless it is judged (BEIR's rule).

    Of a judged document that was split, the positive is its passage that was found first, or else
    its first passage. A row without a positive in the collection fails.
    """

    name: str | None = "negatives"
    of: str = "documents"
    into: str = "documents"
    data: str = Field(description="The data set: a folder with questions and judgements.")
    split: str | None = Field(None, description="Which judgements, as for rag eval.")
    depth: int = Field(DEPTH, gt=0, description="The passages of a ranking that are looked at.")

    def columns(self, have: Columns) -> Columns:
        """Needs a ranking, writes one."""
        return have.need("question").need(self.of, type="ranking").put(**{self.into: "ranking"})

    def files(self) -> list[Path]:
        """The files of the data set: what is mined hangs on them."""
        folder = Path(self.data)
        return sorted(file for name in _FILES for file in folder.glob(name) if file.is_file())

    def open(self, context: Context) -> Step:
        """Read the data set.

        Raises:
            NotFound, BadRow: as ``rag.eval.load``.
            InvalidInput: it has no judgements, or none of a document of the collection.
        """
        from rag.eval import load
        from rag.eval.judged import judged_column
        from rag.ranking import Ranking

        dataset = load(self.data, split=self.split)
        snapshot = context.snapshot(self.collection)
        if not dataset.qrels:
            raise InvalidInput(
                f"{self.data}: no judgements (qrels/<split>.tsv or qrels.tsv); they say which "
                "passages are positives"
            )
        whole = judged_column(dataset.qrels, snapshot) == "document"

        def step(batch: Batch, run: Run) -> Batch:
            ranking = batch[self.of]
            rows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
            for row, (a, b) in enumerate(pairwise(ranking.offsets.tolist())):
                name = batch.ids[row]
                found = ranking.docs[a : min(b, a + self.depth)]
                good = bad = found[:0]
                if run.waits(row):
                    grades = dataset.qrels.get(name, {})
                    answers = dataset.answers.get(name, ())
                    good, bad = _sides(snapshot, name, grades, answers, found, whole=whole)
                    if not len(good):
                        run.fail(row, _absent(name, grades, snapshot))
                        bad = bad[:0]
                rows.append((good, bad))
            sides = [side for row in rows for side in row]
            counts = np.array([len(side) for side in sides], np.int64)
            docs = np.concatenate([np.zeros(0, np.int64), *sides])
            mined = Ranking(
                np.concatenate(([0], np.cumsum(counts)[1::2])),
                docs,
                np.full(len(docs), np.nan, np.float32),
                snapshot,
                evidence={"positive": np.repeat(np.arange(len(sides)) % 2 == 0, counts).tolist()},
            )
            return batch.put(**{self.into: mined})

        return step


def mine(
    data: Path | str,
    out: Path | str,
    pipeline: Pipeline,
    *,
    split: str | None = None,
    depth: int = DEPTH,
    scores: str | None = None,
    workers: int | None = None,
    progress: Progress = silent,
    **job: Any,
) -> RunDone:
    """Mine hard negatives for the questions of a data set into ``out`` (docs/formats.md).

    The bytes are the same for any number of workers and of kills.

    Args:
        data: the folder of the data set, as ``rag.eval.load`` reads it.
        out: a .jsonl file, one question a line.
        pipeline: what finds passages: as many as its stages say.
        split: which judgements; default ``train`` where there are such, else as ``rag.eval.load``.
        depth: the most passages of each question that are looked at; those that remain are all
            written.
        scores: a cross-encoder that scores positives and negatives, for distillation.
        workers: processes that mine.
        progress: called with the questions that are done.
        job: what else ``rag.pipelines.run_file`` takes.

    Raises:
        NotFound: data set or judgements are absent.
        InvalidInput: nothing is judged, or nothing that is in the collection.
        BadRow: a line of the data set cannot be used.
    """
    from rag.eval import load
    from rag.pipeline import Pipeline
    from rag.pipelines import run_file
    from rag.retrievers.rerank import Rerank

    dataset = load(data, split=split or _default(data))
    if not dataset.qrels:
        raise InvalidInput(
            f"{data}: no judgements (qrels/<split>.tsv or qrels.tsv); they say which passages are "
            "positives"
        )
    told = Negatives(data=str(dataset.path), split=dataset.split, depth=depth)
    stages: list[Any] = [*pipeline.stages, told]
    if scores is not None:
        stages.append(Rerank(model=scores))
    whole = Pipeline(
        stages,
        pipeline.collection,
        on_error=pipeline.on_error,
        name=pipeline.name,
        resources=pipeline.resources,
    )
    asked = {name: text for name, text in dataset.questions.items() if name in dataset.qrels}
    options: dict[str, Any] = {"workers": workers, "progress": progress, **job}
    with whole:
        return run_file(asked, out, whole, form="mined", **options)


def _default(data: Path | str) -> str | None:
    """The split ``train`` where the data set has one."""
    folder = Path(data)
    files = [*folder.glob("qrels/train.tsv*"), *folder.glob("qrels_train.tsv*")]
    return "train" if any(file.is_file() for file in files) else None


def _absent(name: str, grades: Mapping[str, int], snapshot: Snapshot) -> RagError:
    wanted = [document for document, grade in grades.items() if grade > 0]
    if not wanted:
        return InvalidInput(f"question {name!r}: nothing is judged relevant (a grade above 0)")
    return NotFound(
        f"question {name!r}: none of its {len(wanted)} relevant documents is in the collection "
        f"{snapshot.identity} (the first is {wanted[0]!r})"
    )


def _sides(
    snapshot: Snapshot,
    name: str,
    grades: Mapping[str, int],
    answers: Sequence[str],
    found: NDArray[np.int64],
    *,
    whole: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The numbers of the positives and of the negatives of a question.

    Args:
        snapshot: the collection.
        name: the question's id.
        grades: what is judged of it.
        answers: its gold answers.
        found: the numbers of the passages that were found, best first.
        whole: the judgements name documents, not passages.
    """
    # By falling grade, and then in the order of the judgements.
    wanted = sorted(
        (one for one, grade in grades.items() if grade > 0), key=lambda one: -grades[one]
    )
    if whole:
        documents = snapshot.find_documents(wanted)
        positives = [documents[place].tolist() for place in sorted(documents)]
    else:
        positives = [[number] for number in snapshot.find(wanted).tolist() if number >= 0]
    judged = {number for parts in positives for number in parts}
    order = {number: place for place, number in enumerate(found.tolist())}
    good = [min(parts, key=lambda number: order.get(number, len(order))) for parts in positives]
    left = np.array([number for number in order if number not in judged], np.int64)
    own = [shingles(text) for text in _column(snapshot, good, "text")]
    gold = {f" {normalize(answer)} " for answer in answers} - _SAY_NOTHING
    ids, documents_, texts = (_column(snapshot, left, c) for c in ("id", "document", "text"))
    kept = [
        (name in grades or name not in (passage, document))
        and not any(_near(shingles(text), one) for one in own)
        and not (gold and _holds(text, gold))
        for passage, document, text in zip(ids, documents_, texts, strict=True)
    ]
    return np.array(good, np.int64), left[np.array(kept, np.bool_)]


def _column(snapshot: Snapshot, numbers: Any, column: str) -> list[str]:
    found: list[str] = snapshot.rows(np.array(numbers, np.int64), [column])[column].to_pylist()
    return found


def _near(one: set[Any], other: set[Any]) -> bool:
    return len(one & other) >= SAME * len(one | other)


def _holds(text: str, answers: set[str]) -> bool:
    """Whether a text holds one of ``answers``, in normal form between spaces, as whole words."""
    plain = f" {normalize(text)} "
    return any(answer in plain for answer in answers)
