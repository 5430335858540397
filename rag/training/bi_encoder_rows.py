"""Rows of contrastive training: a question, a passage that answers it, passages that do not.

The objectives ``bi_encoder`` and ``vdr`` share them. What a passage is read as, and how texts
become tokens, is theirs.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rag.errors import BadRow, InvalidInput, NotFound

if TYPE_CHECKING:
    import numpy as np

    from rag.training.data import Document, Side, Split

APART = 64
"""Rows of one passage stand at least so far apart where they can: in another batch, mostly."""


class Row(NamedTuple):
    """One question with one of its positives.

    Attributes:
        name: the question's id; of a pair of title and text the document's.
        question: its text.
        positive: the id of the passage.
        negatives: ids of its hard negatives, best first; empty where none were mined.
        scores: what a cross-encoder says of the positive and of each negative; empty for none.
    """

    name: str
    question: str
    positive: str
    negatives: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()


class Mined(NamedTuple):
    """A line of the file of negatives (docs/formats.md)."""

    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    positive_scores: tuple[float, ...]
    negative_scores: tuple[float, ...]


def question_rows(
    split: Split, negatives: Path | None, *, scored: bool = False
) -> tuple[list[Row], list[str]]:
    """The rows of the questions on the training side, and what is to be said of them.

    Args:
        split: the data.
        negatives: the file that ``rag mine`` wrote; None: no hard negatives.
        scored: each must have the scores of a cross-encoder.

    Raises:
        NotFound: there is no such file.
        BadRow: a line of it cannot be used: a key is missing, or is no list of ids or numbers.
        InvalidInput: no question has a negative, a passage is not among the documents, or a
            negative is judged relevant.
    """
    side = split.train
    if negatives is None:
        rows = [Row(q, text, d) for q, text in side.questions.items() for d in side.positives(q)]
        return rows, [f"{len(rows):,} pairs of a question and a passage, no hard negatives."]
    mined = read_mined(negatives, side.questions, scored=scored)
    without = [name for name in side.questions if not (name in mined and mined[name].negatives)]
    if len(without) == len(side.questions):
        raise InvalidInput(
            f"{negatives}: holds no negatives for any of the {len(side.questions):,} questions of "
            f"the training side (such as {without[0]!r}); mine them from the same data and split: "
            "rag mine DATA -c COLLECTION --out FILE"
        )
    _check(negatives, mined, side, split.documents)
    rows = [row for name, its in mined.items() for row in _rows(name, its, side, scored=scored)]
    left = len(side.questions) - len({row.name for row in rows})
    said = f"{len(rows):,} pairs of a question and a passage, with hard negatives of {negatives}"
    return rows, [f"{said}; {left:,} questions without any are left out." if left else f"{said}."]


def _rows(name: str, its: Mined, side: Side, *, scored: bool) -> list[Row]:
    """A row for each positive; what is held back is no negative."""
    kept = [at for at, passage in enumerate(its.negatives) if passage in side.documents]
    if not kept:
        return []
    names = tuple(its.negatives[at] for at in kept)
    scores = tuple(its.negative_scores[at] for at in kept) if scored else ()
    return [
        Row(
            name,
            side.questions[name],
            positive,
            names,
            (its.positive_scores[place], *scores) if scored else (),
        )
        for place, positive in enumerate(its.positives)
        if positive in side.documents
    ]


def title_rows(documents: Mapping[str, Document]) -> list[Row]:
    """A row for each document with a title and a text: the title asks for the text."""
    return [Row(name, d.title, name) for name, d in documents.items() if d.title and d.text]


def read_mined(file: Path, wanted: Mapping[str, Any], *, scored: bool) -> dict[str, Mined]:
    """The lines of a file of negatives whose questions are ``wanted``, in their order.

    Raises:
        NotFound, BadRow: as ``question_rows`` says.
    """
    from rag.sources.lines import Lines
    from rag.sources.rows import json_rows

    if not file.is_file():
        raise NotFound(
            f"{file}: no such file of negatives; make it: rag mine DATA -c COLLECTION --out {file}"
        )
    found: dict[str, Mined] = {}
    for row in json_rows(str(file), Lines(file, str(file))):
        if isinstance(row.values, BadRow):
            raise row.values
        values = row.values
        name = values.get("id")
        if not isinstance(name, str):
            raise BadRow(file, row.line, "id", "no key 'id' with a text", _FIX)
        if name not in wanted or values.get("error") is not None:
            continue
        sides = [_ids(file, row.line, values, key) for key in ("positives", "negatives")]
        scores = [
            _scores(file, row.line, values, key, len(ids)) if scored else ()
            for key, ids in zip(("positive_scores", "negative_scores"), sides, strict=True)
        ]
        found[name] = Mined(sides[0], sides[1], scores[0], scores[1])
    return {name: found[name] for name in wanted if name in found}


_FIX = "each line is what rag mine writes (docs/formats.md); mine again"
_UNSCORED = "distillation needs the scores of a cross-encoder: rag mine ... --scores MODEL"


def _ids(file: Path, line: int, values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if key not in values:
        have = ", ".join(values) or "none"
        raise BadRow(file, line, key, f"no key {key!r}; the row has {have}", _FIX)
    ids = values[key]
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise BadRow(file, line, key, f"{json.dumps(ids)[:60]} is no list of ids", _FIX)
    return tuple(ids)


def _scores(
    file: Path, line: int, values: Mapping[str, Any], key: str, count: int
) -> tuple[float, ...]:
    if key not in values:
        raise BadRow(file, line, key, f"no key {key!r}", _UNSCORED)
    found = values[key]
    good = isinstance(found, list) and all(type(one) in (int, float) for one in found)
    if not good or len(found) != count:
        what = f"{json.dumps(found)[:60]} is no list of {count} numbers, one for each passage"
        raise BadRow(file, line, key, what, _UNSCORED)
    return tuple(map(float, found))


def _check(
    file: Path, mined: Mapping[str, Mined], side: Side, documents: Mapping[str, Document]
) -> None:
    for name, its in mined.items():
        for passage in (*its.positives, *its.negatives):
            if passage not in documents:
                raise InvalidInput(
                    f"{file}: question {name!r}: the passage {passage!r} is not among the "
                    f"{len(documents):,} documents; name in data.path the collection that it was "
                    "mined from, or mine from these documents"
                )
        relevant = {d for d, grade in side.qrels.get(name, {}).items() if grade > 0}
        if both := sorted(relevant.intersection(its.negatives)):
            raise InvalidInput(
                f"{file}: question {name!r}: the negative {both[0]!r} is judged relevant; mine "
                "again with the judgements that are trained on"
            )


def spread(keys: Sequence[str], draw: np.random.Generator) -> list[int]:
    """All places of ``keys`` in random order; equal keys stand ``APART`` where that can be.

    In a batch the passages of other rows serve as negatives, and a passage that answers two of its
    questions would be one wrongly.
    """
    waiting = deque(draw.permutation(len(keys)).tolist())
    order: list[int] = []
    recent: deque[str] = deque(maxlen=APART - 1)
    while waiting:
        for turn in range(len(waiting)):
            if keys[waiting[0]] not in recent:
                break
            waiting.rotate(-1)
            if turn > APART:  # so many wait that few other keys are left
                break
        place = waiting.popleft()
        order.append(place)
        recent.append(keys[place])
    return order


def sample(row: Row, count: int, draw: np.random.Generator) -> tuple[list[str], list[float]]:
    """``count`` hard negatives of a row, drawn without repetition while there are enough.

    Returns:
        Their ids, and the scores of the positive and of each of them (none where none are given).
    """
    there = len(row.negatives)
    if not count or not there:
        return [], []
    chosen = draw.choice(there, size=count, replace=there < count).tolist()
    scores = [row.scores[0], *(row.scores[1 + at] for at in chosen)] if row.scores else []
    return [row.negatives[at] for at in chosen], scores
