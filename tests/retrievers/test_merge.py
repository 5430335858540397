"""Merging the rankings of several queries, against a naive version."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.retrievers.merge import RRF_K, merged

How = Literal["rrf", "max"]
Hits = list[tuple[int, float]]

hits = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from([0.25, 0.5, 1.0, 3.0])),
    max_size=6,
    unique_by=lambda hit: hit[0],
).map(lambda found: sorted(found, key=lambda hit: (-hit[1], hit[0])))


hows: st.SearchStrategy[How] = st.sampled_from(["rrf", "max"])


def naive(rows: list[list[Hits]], k: int, how: How) -> list[list[tuple[int, float]]]:
    """For each row its passages and scores, with exact sums."""
    merged_rows = []
    for queries in rows:
        best: dict[int, Fraction] = {}
        for found in queries:
            for rank, (doc, score) in enumerate(found, 1):
                if how == "rrf" and len(queries) > 1:
                    best[doc] = best.get(doc, Fraction(0)) + Fraction(1, RRF_K + rank)
                else:
                    best[doc] = max(best.get(doc, Fraction(0)), Fraction(score))
        order = sorted(best.items(), key=lambda item: (-item[1], item[0]))
        merged_rows.append([(doc, float(score)) for doc, score in order[:k]])
    return merged_rows


def run(rows: list[list[Hits]], k: int, how: How) -> list[list[tuple[int, float]]]:
    flat = [(row, found) for row, queries in enumerate(rows) for found in queries]
    offsets, docs, scores = merged(
        np.array([row for row, _ in flat], np.int64),
        np.cumsum([0, *(len(found) for _, found in flat)]),
        np.array([doc for _, found in flat for doc, _ in found], np.int64),
        np.array([score for _, found in flat for _, score in found], np.float32),
        n=len(rows),
        k=k,
        how=how,
    )
    assert scores.dtype == np.float32
    assert len(offsets) == len(rows) + 1
    pairs = list(zip(docs.tolist(), scores.tolist(), strict=True))
    return [pairs[start:end] for start, end in pairwise(offsets.tolist())]


@given(
    st.lists(st.lists(hits, max_size=4), max_size=5),
    st.integers(1, 9),
    st.sampled_from(["rrf", "max"]),
)
def test_merging_equals_the_naive_version(rows: list[list[Hits]], k: int, how: How) -> None:
    found, expected = run(rows, k, how), naive(rows, k, how)
    assert [[doc for doc, _ in row] for row in found] == [[d for d, _ in row] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert [score for _, score in row] == pytest.approx([score for _, score in other], rel=1e-6)


def test_the_same_ranks_in_other_queries_are_a_tie() -> None:
    permutations = [[5, 9, 1], [9, 1, 5], [1, 5, 9]]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        rows = [[[(doc, 1.0) for doc in permutations[query]] for query in order]]
        assert [doc for doc, _ in run(rows, 3, "rrf")[0]] == [1, 5, 9]


def test_rows_without_queries_or_hits_stay_empty() -> None:
    assert run([[], [[]], [[(3, 1.0)], []], []], 5, "max") == [[], [], [(3, 1.0)], []]
    assert run([], 5, "rrf") == []
