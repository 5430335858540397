"""From a ranking of passages to a run of what the judgements name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rag.errors import InvalidInput, NotFound
from rag.eval.runs import fallen
from rag.ranking import Ranking, Snapshot

SAMPLE = 1000
"""How many judged documents are looked up to learn what the judgements name."""


def judged_column(qrels: Mapping[str, Mapping[str, int]], snapshot: Snapshot) -> str:
    """What the judgements name: ``id`` (passages) or ``document`` (documents that were split).

    Passages of a split document are called ``{document}#{part}``, so a judged document is found
    by its part 0. A judged id that is a passage of another document speaks for passages.

    Raises:
        InvalidInput: none of the judged documents is in the collection.
    """
    names = list(dict.fromkeys(name for grades in qrels.values() for name in grades))
    step = max(1, len(names) // SAMPLE)
    # All of them only where the sample finds nothing: a small part of a corpus may be indexed.
    for sample in (names[::step], names):
        whole, parts, documents = _found(sample, snapshot)
        if whole or parts or documents:
            return "document" if documents >= parts else "id"
    raise InvalidInput(
        f"none of the judged documents is in the collection {snapshot.identity} "
        f"(the first is {names[0]!r}); was it built from another corpus?"
    )


def _found(names: Sequence[str], snapshot: Snapshot) -> tuple[int, int, int]:
    """How many names are whole documents, parts of one, and documents that were split."""
    whole = parts = documents = 0
    for name in names:
        number = _number(name, snapshot)
        if number is None:
            documents += _number(f"{name}#0", snapshot) is not None
        elif snapshot.rows(number, ["document"])["document"][0].as_py() == name:
            whole += 1
        else:
            parts += 1
    return whole, parts, documents


def _number(name: str, snapshot: Snapshot) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
    try:
        return snapshot.numbers([name])
    except NotFound:
        return None


def relevance_order(ranking: Ranking) -> Ranking:
    """Each row by falling score, since reading order (after ``reorder``) is none of relevance.

    A row whose scores do not rise stays as it is, ties included: that is what the user sees.
    In any other row ties go by passage number, as everywhere.
    """
    rises = np.diff(ranking.scores, prepend=np.float32(0)) > 0
    risen = np.zeros(len(ranking), np.bool_)
    risen[ranking.row_of[rises & (ranking.rank_of > 0)]] = True
    ties = np.where(risen[ranking.row_of], ranking.docs, ranking.rank_of)
    return ranking.reorder(np.lexsort((ties, -ranking.scores, ranking.row_of)))


def to_run(
    ids: Sequence[str], ranking: Ranking, column: str, qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, list[tuple[str, float]]]:
    """The run of a ranking, best first, with scores that fall strictly.

    Several passages of one judged document count once, where the best of them stands. A document
    that is called like the question is dropped (BEIR's rule: in ArguAna the question is itself a
    document), unless the judgements grade it for that question.

    Args:
        ids: n question ids.
        ranking: n rows.
        column: ``id`` or ``document``, of ``judged_column``.
        qrels: the judgements.
    """
    ranking = relevance_order(ranking)
    # A dictionary keeps the first of several keys: the best passage of a document.
    names = ranking.snapshot.rows(ranking.docs, [column])[column].to_pylist()
    scores, offsets = ranking.scores.tolist(), ranking.offsets.tolist()
    run: dict[str, list[tuple[str, float]]] = {}
    for row, query in enumerate(ids):
        best: dict[str, float] = {}
        for entry in range(offsets[row], offsets[row + 1]):
            best.setdefault(names[entry], scores[entry])
        if query not in qrels.get(query, {}):
            best.pop(query, None)
        run[query] = list(best.items())
    return fallen(run)
