"""The held-back questions, asked of all documents: by a model's keys, by BM25, by spans alone."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag.retrievers.seal.decode import Decoding, decode
from rag.retrievers.seal.keys import SPAN, TITLE, Keys
from rag.retrievers.seal.score import score
from rag.retrievers.seal.spans import spans
from rag.retrievers.seal.weigh import Scoring

if TYPE_CHECKING:
    from rag.collection.kinds import IndexKind
    from rag.retrievers.seal.model import SealModel
    from rag.training.data import Split

MEASURE = "nDCG@10"
DEPTH = 100
"""Passages of a ranking."""

Values = dict[str, float]
Run = dict[str, list[tuple[str, float]]]


class Asked:
    """A collection of all documents, in a folder that goes with it, and the held-back questions."""

    def __init__(self, split: Split, model: str) -> None:
        """Index the documents, by words and by n-grams of the model's tokens."""
        from rag.collection import Collection
        from rag.indexers import Lexical, NGrams

        self._held = split.held
        self._folder = tempfile.TemporaryDirectory(prefix="ragstone-")
        corpus = Path(self._folder.name) / "corpus.jsonl"
        with corpus.open("w", encoding="utf-8") as file:
            for name, (title, text) in split.documents.items():
                row = {"_id": name, "title": title, "text": text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        indexes: dict[str, IndexKind] = {"lexical": Lexical(), "ngrams": NGrams(model=model)}
        built = Collection.build(corpus.parent, Path(self._folder.name) / "c", indexes=indexes)
        self._snapshot = built[0].snapshot()
        self._index = self._snapshot.index("ngrams").index
        self._bm25: Run = {}

    def scores(self, model: SealModel, beam: int) -> dict[str, Values]:
        """nDCG@10 for each kind of keys and weights; the first has the keys of the beam alone."""
        names = list(self._held.questions)
        how = Decoding(beam=beam, weights="pmi")
        keys = decode(model, self._index, [self._held.questions[n] for n in names], how)
        runs: dict[str, Run] = {}
        for name, weights, which in (
            ("beam keys", "count", "beam"),
            ("question's spans", "count", "spans"),
            ("all keys", "count", "all"),
            ("beam keys, pmi", "pmi", "beam"),
            ("question's spans, pmi", "pmi", "spans"),
            ("all keys, pmi", "pmi", "all"),
        ):
            scoring = Scoring(weights=weights, top_k=DEPTH)  # type: ignore[arg-type]
            runs[name] = {
                question: self._ranked(_some(its, which), scoring)
                for question, its in zip(names, keys, strict=True)
                if isinstance(its, Keys)
            }
        bm25 = self._by_words()
        best = runs["all keys, pmi"]
        runs["all keys, pmi, and BM25"] = {n: fused(best.get(n, []), bm25[n]) for n in bm25}
        return {f"{MEASURE} {name}": self._measured(run) for name, run in runs.items()}

    def references(self, model: SealModel) -> dict[str, Values]:
        """BM25; and spans weighted by log(odds of not occurring)^2: no model says anything."""
        run = {}
        for name, question in self._held.questions.items():
            texts = [model.layout.lead + text for text in spans(question, 3)]
            ids = dict.fromkeys(tuple(each) for each in model.encode(texts) if each)
            counts = self._index.count([list(each) for each in ids]) if ids else []
            there = [list(each) for each, count in zip(ids, counts, strict=True) if count]
            # Even odds for all of them, so that the weight is the prior's alone.
            keys = Keys.of(there, [math.log(0.5)] * len(there), kinds=[SPAN] * len(there))
            run[name] = self._ranked(keys, Scoring(top_k=DEPTH))
        return {
            "BM25": self._measured(self._by_words()),
            "question's spans by idf squared, no model": self._measured(run),
        }

    def _ranked(self, keys: Keys, how: Scoring) -> list[tuple[str, float]]:
        if not len(keys):
            return []
        best = score(keys, self._index, how)
        names = self._snapshot.rows(best.documents, ("id",))["id"].to_pylist()
        return list(zip(names, best.scores.tolist(), strict=True))

    def _by_words(self) -> Run:
        from rag import Pipeline
        from rag.batch import Batch
        from rag.retrievers.bm25 import BM25

        if not self._bm25:
            names = list(self._held.questions)
            with Pipeline([BM25(top_k=DEPTH)], self._snapshot) as pipeline:
                asked = Batch.of([self._held.questions[name] for name in names], names)
                found: Any = pipeline.run(asked)["documents"]
            ids = self._snapshot.rows(found.docs, ("id",))["id"].to_pylist()
            for number, name in enumerate(names):
                part = slice(int(found.offsets[number]), int(found.offsets[number + 1]))
                its = zip(ids[part], found.scores[part].tolist(), strict=True)
                self._bm25[name] = list(its)
        return self._bm25

    def _measured(self, run: Run) -> Values:
        from rag.eval.measures import retrieval

        qrels = {name: dict(self._held.qrels[name]) for name in self._held.questions}
        each = retrieval([MEASURE], qrels, run).each
        return {name: its.get(MEASURE, 0.0) for name, its in each.items()}


def fused(one: list[tuple[str, float]], other: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Two rankings by the sum of their scores, each brought to 0 to 1 (the lowest and highest)."""
    total: Values = {}
    for ranking in (one, other):
        for name, value in _scaled(ranking).items():
            total[name] = total.get(name, 0.0) + value
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))[:DEPTH]


def _scaled(ranking: list[tuple[str, float]]) -> Mapping[str, float]:
    values = [value for _, value in ranking]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return {name: (value - low) / (high - low) if high > low else 1.0 for name, value in ranking}


def _some(keys: Keys, which: str) -> Keys:
    """All keys of a question, or those of the beam's texts, or the runs of its own words."""
    if which == "all":
        return keys
    wanted = keys.kinds == SPAN if which == "spans" else ~np.isin(keys.kinds, (SPAN, TITLE))
    chosen = np.flatnonzero(wanted)
    base = None if keys.base is None else keys.base[chosen]
    ngrams = [keys.ngram(int(number)) for number in chosen]
    return Keys.of(ngrams, keys.log_probs[chosen], kinds=keys.kinds[chosen], base=base)
