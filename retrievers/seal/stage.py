"""The stage ``seal``: passages that hold the n-grams which a language model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from rag.errors import InvalidInput
from rag.retrievers.merge import Merge, depth, merged
from rag.stage import Columns, Context, Run, Stage, Step
from rag.where import Where

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rag.batch import Batch
    from rag.indexers.fm_index import FMIndexes
    from rag.indexers.ngrams import NGramIndex
    from rag.ranking import Ranking
    from rag.retrievers.seal.model import SealModel
    from rag.retrievers.seal.score import Scored

EVIDENCE = "ngrams"
"""The name of the evidence in a ranking (``rag.retrievers.seal.evidence``)."""


class Seal(Stage, name="seal"):
    """Rank passages by the n-grams that a model writes for the question and that they hold.

    After SEAL (Bevilacqua et al., NeurIPS 2022): a beam search that can only write what stands in
    the collection, scored in two steps (``rag.retrievers.seal.score``). Each passage carries its
    evidence, which ``rag search --explain`` shows.
    """

    of: str = Field("query", description="The column of queries.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    top_k: int = Field(100, gt=0, description="The most passages of a question.")
    index: str | None = Field(
        None, description="The n-gram index to search; default: the only one there is."
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="The model that writes: a folder, a name at Hugging Face, a .gguf file or "
        "smollm2, with the tokenizer of the index; default: the model that the index names.",
    )
    device: str | None = Field(None, description="cpu, cuda, ...; default: cuda where it is.")
    beam: int = Field(15, gt=0, description="Hypotheses that each step goes on with.")
    length: int = Field(10, gt=0, description="The most tokens of an n-gram.")
    titles: bool = Field(True, description="Whether titles are written too.")
    spans: int = Field(
        3, ge=0, description="The most words of a run of the question's own words; 0: none."
    )
    unigrams: bool = Field(True, description="Whether single tokens count.")
    weights: Literal["count", "pmi"] = Field(
        "count",
        description="What the model's probability of an n-gram is compared with: how often it "
        "occurs (as SEAL does), or its probability without the question (better for a model that "
        "was not trained for SEAL).",
    )
    alpha: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="The power that weights are raised to."
    )
    smoothing: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="Added to how often an n-gram occurs."
    )
    beta: float = Field(
        0.8, ge=0, le=1, description="How much is lost by an n-gram whose tokens better ones hold."
    )
    max_hits: int = Field(
        1500, gt=0, description="N-grams that occur more often find no passage by themselves."
    )
    fully_score: int = Field(
        1500, gt=0, description="So many passages, and at least top_k, are read in full."
    )
    single_key: float = Field(
        0.0, ge=0, le=1, description="The part of a score that its best n-gram alone makes."
    )
    unigram_top: int = Field(
        5000, ge=0, description="How many single tokens count, the likeliest ones."
    )
    merge: Merge = Field("rrf", description="How several queries of one question are merged.")
    where: Where | None = Field(
        None, description="A condition that passages fulfil: {year: {gte: 1990}, lang: en}."
    )

    def columns(self, have: Columns) -> Columns:
        """Needs the queries, writes a ranking."""
        return have.need(self.of).put(**{self.into: "ranking"})

    def files(self) -> list[Path]:
        """The files of ``model``, where one is set: results of ``rag run`` hang on them."""
        from rag.models.place import files_of, place_of

        return [] if self.model is None else files_of(place_of(self.model))

    def open(self, context: Context) -> Step:
        """Open the index of the snapshot and the model.

        Raises:
            NotFound: the collection has no n-gram index, or there is no such model.
            InvalidInput: the model's tokenizer is not that of the index, or ``where`` does not fit
                the fields. What ``SealModel.load`` raises, too.
        """
        from rag.retrievers.seal.decode import check_vocabulary
        from rag.retrievers.seal.model import SealModel

        snapshot = context.snapshot(self.collection)
        searcher: NGramIndex = snapshot.index(snapshot.index_name("ngrams", self.index))
        keep = snapshot.matching(self.where)
        name, device = self.model or searcher.settings.model, self.device
        model: SealModel = context.get(
            ("seal", name, device), lambda: SealModel.load(name, device=device)
        )
        searcher.check(model.name, model.fingerprint)
        if searcher.index is not None:
            check_vocabulary(model, searcher.index)

        def step(batch: Batch, run: Run) -> Batch:
            column = [[v] if isinstance(v, str) else v or () for v in batch[self.of]]
            rows = np.repeat(np.arange(len(column)), [len(row) for row in column])
            several = any(len(row) > 1 for row in column)
            k = depth(self.top_k, self.merge) if several else self.top_k
            queries = [query for row in column for query in row]
            found = self._found(queries, rows.tolist(), model, searcher.index, keep, k, run)
            return batch.put(**{self.into: self._ranking(found, rows, len(column), snapshot)})

        return step

    def _found(
        self,
        queries: list[str],
        rows: list[int],
        model: SealModel,
        index: FMIndexes | None,
        keep: NDArray[np.bool_] | None,
        k: int,
        run: Run,
    ) -> list[_Found]:
        """The passages of each query; none for a row that failed or that nobody waits for."""
        from rag.retrievers.seal.decode import QUESTIONS_AT_ONCE, Decoding, decode
        from rag.retrievers.seal.evidence import evidence
        from rag.retrievers.seal.score import score
        from rag.retrievers.seal.weigh import Scoring

        found = [_Found.none()] * len(queries)
        if index is None:
            return found
        writing = Decoding(
            beam=self.beam, length=self.length, titles=self.titles, spans=self.spans,
            unigrams=self.unigrams, weights=self.weights,
        )  # fmt: skip
        scoring = Scoring(
            weights=self.weights, alpha=self.alpha, smoothing=self.smoothing, beta=self.beta,
            max_hits=self.max_hits, fully_score=max(self.fully_score, k),
            single_key=self.single_key, unigram_top=self.unigram_top, top_k=k,
        )  # fmt: skip
        for row, query in zip(rows, queries, strict=True):
            if (error := _unreadable(query)) is not None:
                run.fail(row, error)
        # Those of one pass are alike in length, so that little is padded.
        order = [at for at, row in enumerate(rows) if row not in run.failed]
        order.sort(key=lambda at: len(queries[at]))
        for start in range(0, len(order), QUESTIONS_AT_ONCE):
            some = [at for at in order[start : start + QUESTIONS_AT_ONCE] if run.waits(rows[at])]
            decoded = decode(model, index, [queries[at] for at in some], writing)
            for at, keys in zip(some, decoded, strict=True):
                if isinstance(keys, InvalidInput):
                    run.fail(rows[at], keys)
                elif len(keys) and run.waits(rows[at]):
                    scored = score(keys, index, scoring, keep=keep)
                    found[at] = _Found.of(scored, evidence(keys, scored, model.decode))
        return found

    def _ranking(
        self, found: Sequence[_Found], rows: NDArray[np.int64], n: int, snapshot: Any
    ) -> Ranking:
        """One ranking of all rows; a passage has the evidence of all queries that found it."""
        from rag.ranking import Ranking

        offsets = np.cumsum([0, *(len(each.documents) for each in found)])
        docs = np.concatenate([np.zeros(0, np.int64), *(each.documents for each in found)])
        scores = np.concatenate([np.zeros(0, np.float32), *(each.scores for each in found)])
        values = [value for each in found for value in each.evidence]
        if len(rows) != n or (np.diff(rows) != 1).any():
            known: dict[tuple[int, int], list[Any]] = {}
            row_of = np.repeat(rows, np.diff(offsets)).tolist()
            for row, doc, value in zip(row_of, docs.tolist(), values, strict=True):
                known.setdefault((row, doc), []).extend(value)
            offsets, docs, scores = merged(
                rows, offsets, docs, scores, n=n, k=self.top_k, how=self.merge
            )
            row_of = np.repeat(np.arange(n), np.diff(offsets)).tolist()
            values = [known[pair] for pair in zip(row_of, docs.tolist(), strict=True)]
        return Ranking(offsets, docs, scores, snapshot, evidence={EVIDENCE: values})


class _Found(NamedTuple):
    """The passages of one query, best first, and why."""

    documents: NDArray[np.int64]
    scores: NDArray[np.float32]
    evidence: Sequence[list[dict[str, Any]]]

    @classmethod
    def none(cls) -> _Found:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32), ())

    @classmethod
    def of(cls, scored: Scored, evidence: list[list[dict[str, Any]]]) -> _Found:
        return cls(scored.documents, scored.scores, evidence)


def _unreadable(query: str) -> InvalidInput | None:
    """What is wrong with a query that no tokenizer reads."""
    try:
        query.encode()
    except UnicodeEncodeError as error:
        return InvalidInput(
            f"the query has an unpaired surrogate at character {error.start + 1}; "
            "write the character whole, in UTF-8"
        )
    return None
