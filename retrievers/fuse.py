"""The stage ``fuse``: several rankings of a question become one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from rag.errors import InvalidInput
from rag.retrievers.merge import reciprocal, united
from rag.retrievers.normalize import Normalize, normalized
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from rag.batch import Batch, Ranking


class Fuse(Stage, name="fuse"):
    """Fuse several rankings of each question into one, which holds the passages of all.

    ``rrf`` is reciprocal rank fusion: a passage's score is the sum over the rankings of
    weight / (60 + rank), rank from 1 (Cormack, Clarke and Büttcher, SIGIR 2009). It needs no
    comparable scores. ``linear`` is the sum of weight x score (CombSUM, Fox and Shaw, TREC-2,
    1994), the scores of each ranking of a row first brought to one scale by ``normalize``:
    ``minmax`` puts the lowest at 0 and the highest at 1; ``zscore`` puts three standard deviations
    below the mean at 0 and three above at 1; ``rank`` spreads the ranks evenly from 1 down. The
    formulas, and what equal scores become, stand in ``rag.retrievers.normalize``.

    A passage that a ranking does not hold counts 0 there, and one that stands in it twice counts
    where it stands first. Ranks are those of the reading order, so fuse before ``reorder``. Ties go
    by the order of the collection. A row that has none of the rankings gets none. Spans and
    rewritten texts of the rankings are left behind: two rankings may hold other ones for the same
    passage. Evidence (the n-grams of ``seal``) stays: of one kind that of the first ranking that
    has it.
    """

    of: list[str] = Field(min_length=2, description="The rankings to fuse: two columns or more.")
    into: str = Field("documents", description="The column that the fused ranking is written to.")
    method: Literal["rrf", "linear"] = Field(
        "rrf", description="rrf: by ranks; linear: the weighted sum of normalised scores."
    )
    weights: list[float] | None = Field(
        None, description="What each ranking counts, in the order of 'of'; default: 1 each."
    )
    normalize: Normalize | None = Field(
        None,
        description="How linear brings scores to one scale; default: minmax. rrf needs none. "
        "'none' is for scores of one scale that are not below 0.",
    )
    top_k: int = Field(100, gt=0, description="The most passages of a question.")

    @field_validator("of")
    @classmethod
    def _once(cls, of: list[str]) -> list[str]:
        twice = sorted({name for name in of if of.count(name) > 1})
        if twice:
            raise InvalidInput(f"of: {twice[0]!r} stands twice; give it a weight of 2 instead")
        return of

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.method == "rrf" and self.normalize is not None:
            raise InvalidInput(
                "normalize: rrf looks at ranks alone; leave 'normalize' out, or set method: linear"
            )
        weights = self._weights
        if len(weights) != len(self.of):
            raise InvalidInput(
                f"weights: {len(weights)} for {len(self.of)} rankings; give one for each of "
                f"{', '.join(self.of)}"
            )
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise InvalidInput(
                f"weights: found {weights}; expected numbers of 0 or more, and one above 0"
            )
        return self

    @property
    def _weights(self) -> list[float]:
        return [1.0] * len(self.of) if self.weights is None else self.weights

    def columns(self, have: Columns) -> Columns:
        """Needs the rankings, writes a ranking."""
        return have.need(*self.of, type="ranking").put(**{self.into: "ranking"})

    def open(self, context: Context) -> Step:
        """Nothing to open."""

        def step(batch: Batch, run: Run) -> Batch:
            return batch.put(**{self.into: self._fused(batch, run)})

        return step

    def _fused(self, batch: Batch, run: Run) -> Ranking | tuple[None, ...]:
        """The fused ranking of all rows; nulls where no row has any ranking."""
        from rag.ranking import Ranking

        n = len(batch)
        # A column of nulls alone has no ranking to add.
        given = [at for at, name in enumerate(self.of) if isinstance(batch[name], Ranking)]
        if not given:
            return (None,) * n
        # Row i of the ranking j is list j * n + i; two snapshots are refused here.
        lists = Ranking.concat([_bare(batch[self.of[at]]) for at in given])
        row_of = lists.row_of % max(n, 1)
        weights = np.array([self._weights[at] for at in given])
        values = weights[lists.row_of // max(n, 1)] * self._values(lists, batch, run)
        offsets, docs, scores = united(row_of, lists.docs, values, n=n, k=self.top_k, how="sum")
        valid = lists.is_valid.reshape(len(given), n).any(axis=0)
        return Ranking(
            offsets,
            docs,
            scores,
            lists.snapshot,
            evidence=_evidence(lists, row_of, offsets, docs),
            valid=None if valid.all() else valid,
        )

    def _values(self, lists: Ranking, batch: Batch, run: Run) -> NDArray[np.float64]:
        """What each entry counts before its weight; a row with a bad score fails."""
        ranks = lists.rank_of + 1
        if self.method == "rrf":
            return reciprocal(ranks)
        scores = lists.scores.astype(np.float64)
        bad = ~np.isfinite(scores)
        for row in np.unique(lists.row_of[bad] % max(len(batch), 1)).tolist():
            error = "a score is not finite, so that scores cannot be added; set method: rrf"
            run.fail(row, InvalidInput(f"{' or '.join(self.of)}: {error}"))
        return normalized(
            lists.row_of, ranks, np.where(bad, 0.0, scores), self.normalize or "minmax"
        )


def _evidence(
    lists: Ranking, row_of: NDArray[np.int64], offsets: NDArray[np.int64], docs: NDArray[np.int64]
) -> dict[str, list[Any]]:
    """For each passage the evidence of the first ranking that has some for it."""
    pairs = list(zip(row_of.tolist(), lists.docs.tolist(), strict=True)) if lists.evidence else []
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)).tolist()
    made = {}
    for name, values in lists.evidence.items():
        known: dict[tuple[int, int], Any] = {}
        for pair, value in zip(pairs, values, strict=True):
            if value is not None:
                known.setdefault(pair, value)
        made[name] = [known.get(pair) for pair in zip(rows, docs.tolist(), strict=True)]
    return made


def _bare(ranking: Ranking) -> Ranking:
    """Passages, scores and evidence, each passage of a row where it stands first."""
    bare = ranking.put(spans=None, texts=None)
    width = int(bare.docs.max(initial=0)) + 1
    _, first = np.unique(bare.row_of * width + bare.docs, return_index=True)
    if len(first) == len(bare.docs):
        return bare
    kept = np.zeros(len(bare.docs), np.bool_)
    kept[first] = True
    return bare.keep(kept)
