"""How well vectors rank: nDCG@10 of the held-back questions."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rag.training.data import Document, Split

TOKENS_AT_ONCE = 4096
DEPTH = 10
MEASURE = f"nDCG@{DEPTH}"


def candidates(split: Split, count: int | None, seed: int) -> list[str]:
    """The documents that held-back questions are asked of: all, or ``count`` of them.

    Those judged relevant are always there; the others are drawn by the seed.
    """
    names = list(split.documents)
    if count is None or count >= len(names):
        return names
    judged = {name for question in split.held.questions for name in split.held.positives(question)}
    others = [name for name in names if name not in judged]
    drawn = random.Random(seed).sample(others, max(0, min(len(others), count - len(judged))))
    kept = judged | set(drawn)
    return [name for name in names if name in kept]


def ndcg(split: Split, names: Sequence[str], scores: Any) -> dict[str, dict[str, float]]:
    """nDCG@10 by held-back question.

    Args:
        split: the data.
        names: m candidates.
        scores: (held-back questions, m) float, in the order of ``split.held.questions``.
    """
    from rag.eval.measures import retrieval

    run = {}
    for row, question in enumerate(split.held.questions):
        best = np.argsort(-scores[row], kind="stable")[:DEPTH]
        run[question] = [(names[at], float(DEPTH - rank)) for rank, at in enumerate(best.tolist())]
    each = retrieval([MEASURE], split.held.qrels, run).each
    return {MEASURE: {name: its.get(MEASURE, 0.0) for name, its in each.items()}}


def bm25(split: Split, names: Sequence[str]) -> dict[str, float]:
    """What BM25 gives the same questions over the same candidates."""
    import tempfile

    from rag import Batch, Collection, Pipeline
    from rag.eval.judged import to_run
    from rag.eval.measures import retrieval
    from rag.retrievers import BM25

    rows = [{"id": name, **split.documents[name]._asdict()} for name in names]
    held = split.held
    with tempfile.TemporaryDirectory() as folder:
        Collection.build(rows, f"{folder}/collection")
        with Pipeline([BM25(top_k=DEPTH)], f"{folder}/collection") as pipeline:
            batch = Batch.of(list(held.questions.values()), list(held.questions))
            found = pipeline.run(batch)
        run = to_run(found.ids, found["documents"], "id", held.qrels)
    each = retrieval([MEASURE], held.qrels, run).each
    return {name: its.get(MEASURE, 0.0) for name, its in each.items()}


def passage_text(document: Document, joint: str) -> str:
    """What a passage is read as: title, ``joint``, text; as in an index of an encoder."""
    return f"{document.title}{joint}{document.text}" if document.title else document.text


def encoded(
    texts: Sequence[str],
    tokens: Callable[[Sequence[str]], dict[str, Any]],
    encode: Callable[[dict[str, Any]], Any],
) -> list[Any]:
    """``encode`` of each text, in their order; alike in length they are batched."""
    order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
    found: list[Any] = [None] * len(texts)
    while order:
        longest = tokens([texts[order[0]]])["input_ids"].shape[1]
        fits = max(1, TOKENS_AT_ONCE // max(1, longest))
        some, order = order[:fits], order[fits:]
        for at, one in zip(some, encode(tokens([texts[at] for at in some])), strict=True):
            found[at] = one
    return found
