"""Fusing rankings, against a naive version that walks over lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rag.batch import Batch
from rag.errors import InvalidInput, MissingColumn
from rag.pipeline import Pipeline
from rag.ranking import Ranking
from rag.retrievers import Fuse
from rag.stage import Columns, Context, Run
from rag.testing import MemorySnapshot, check_stage

WIKI = MemorySnapshot([{"text": f"passage {number}"} for number in range(12)])
OTHER = MemorySnapshot([{"text": "another collection"}])

Row = list[tuple[int, float]] | None

row = st.none() | st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from([-3.0, 0.1, 0.25, 1.0, 7.5])),
    max_size=6,
    unique_by=lambda hit: hit[0],
)
columns = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(row, min_size=n, max_size=n), min_size=2, max_size=4)
)
methods = st.sampled_from(["rrf", "none", "minmax", "zscore", "rank"])


def stage(how: str, names: list[str], **settings: Any) -> Fuse:
    """rrf, or linear with a normalisation of that name."""
    if how == "rrf":
        return Fuse(of=names, **settings)
    return Fuse(of=names, method="linear", normalize=how, **settings)


def about(value: float) -> Any:
    return pytest.approx(value, rel=1e-6)


def fused(fuse: Fuse, given: Sequence[Any], run: Run | None = None) -> Any:
    """The column that ``fuse`` writes from rows of hits (or ready columns) under its names."""
    made = [Ranking.of(c, WIKI) if isinstance(c, list) else c for c in given]
    batch = Batch.of(["q"] * len(made[0])).put(**dict(zip(fuse.of, made, strict=True)))
    return fuse.open(Context())(batch, run or Run())["documents"]


def hits(ranking: Ranking) -> list[Row]:
    """The rows as lists of (number, score), None where there is no ranking."""
    bounds = zip(ranking.offsets[:-1].tolist(), ranking.offsets[1:].tolist(), strict=True)
    pairs = list(zip(ranking.docs.tolist(), ranking.scores.tolist(), strict=True))
    valid = ranking.is_valid.tolist()
    return [pairs[a:b] if ok else None for ok, (a, b) in zip(valid, bounds, strict=True)]


def naive_values(found: list[tuple[int, float]], how: str) -> list[float]:
    scores = [float(np.float32(score)) for _, score in found]
    if how == "none" or not scores:
        return scores
    if how == "rrf":
        return [1 / (60 + rank) for rank in range(1, len(scores) + 1)]
    if how == "rank":
        return [1 - rank / len(scores) for rank in range(len(scores))]
    low, high = min(scores), max(scores)
    if low == high:
        return [1.0 if how == "minmax" else 0.5] * len(scores)
    if how == "minmax":
        return [(score - low) / (high - low) for score in scores]
    mean = sum(scores) / len(scores)
    sigma = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    return [max(((score - mean) / sigma + 3) / 6, 0) for score in scores]


def naive(given: list[list[Row]], how: str, weights: list[float]) -> list[dict[int, float] | None]:
    rows: list[dict[int, float] | None] = []
    for lists in zip(*given, strict=True):
        sums: dict[int, float] = {}
        for found, weight in zip(lists, weights, strict=True):
            for (doc, _), value in zip(found or [], naive_values(found or [], how), strict=True):
                sums[doc] = sums.get(doc, 0.0) + weight * value
        rows.append(None if all(found is None for found in lists) else sums)
    return rows


@given(columns, methods, st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=4, max_size=4))
def test_fusing_equals_the_naive_version(
    given: list[list[Row]], how: str, weights: list[float]
) -> None:
    names = [f"c{number}" for number in range(len(given))]
    weights = weights[: len(names)]
    found = hits(fused(stage(how, names, weights=weights), given))
    for mine, sums in zip(found, naive(given, how, weights), strict=True):
        assert (mine is None) == (sums is None)
        assert dict(mine or []) == pytest.approx(sums or {}, rel=1e-5, abs=1e-6)
        assert mine is None or mine == sorted(mine, key=lambda hit: (-hit[1], hit[0]))


@given(columns, methods, st.integers(1, 8))
def test_top_k_is_the_beginning_of_the_whole(given: list[list[Row]], how: str, k: int) -> None:
    names = [f"c{number}" for number in range(len(given))]
    whole, cut = fused(stage(how, names), given), fused(stage(how, names, top_k=k), given)
    assert hits(cut) == [None if row is None else row[:k] for row in hits(whole)]


@given(columns, methods)
def test_the_order_of_the_rankings_does_not_matter(given: list[list[Row]], how: str) -> None:
    names = [f"c{number}" for number in range(len(given))]
    results = [hits(fused(stage(how, names), list(order))) for order in permutations(given)]
    assert all(result == results[0] for result in results)


@given(columns, methods)
def test_it_is_a_stage(given: list[list[Row]], how: str) -> None:
    names = [f"c{number}" for number in range(len(given))]
    rankings = {name: Ranking.of(rows, WIKI) for name, rows in zip(names, given, strict=True)}
    check_stage(stage(how, names), Batch.of(["q"] * len(given[0])).put(**rankings))


def test_equal_sums_go_by_ascending_number() -> None:
    assert [
        doc
        for doc, _ in hits(fused(stage("rrf", ["a", "b"]), [[[(5, 9.0)]], [[(2, 1.0)]]]))[0] or []
    ] == [2, 5]


@pytest.mark.parametrize("how", ["minmax", "zscore", "rank", "rrf"])
def test_a_passage_that_one_ranking_alone_finds_is_better_than_none(how: str) -> None:
    # BM25 finds one passage by its only rare word; it must count beside a long dense ranking.
    dense = [(number, 0.8) for number in range(8)]
    found = hits(fused(stage(how, ["a", "b"]), [[[(11, 4.2)]], [dense]]))[0]
    assert dict(found or [])[11] > 0


def test_equal_scores_whose_mean_rounds_have_no_deviation() -> None:
    found = hits(fused(stage("zscore", ["a", "b"]), [[[(n, 0.1) for n in range(3)]], [None]]))
    assert found == [[(0, 0.5), (1, 0.5), (2, 0.5)]]


def test_a_ranking_of_weight_0_gives_its_passages_alone() -> None:
    settings = stage("minmax", ["a", "b"], weights=[1.0, 0.0])
    found = hits(fused(settings, [[[(3, 2.0), (4, 1.0)]], [[(1, 9.0), (4, 8.0)]]]))
    assert found == [[(3, 1.0), (1, 0.0), (4, 0.0)]]


def test_a_passage_that_stands_twice_in_a_ranking_counts_once() -> None:
    found = hits(fused(stage("rrf", ["a", "b"]), [[[(3, 2.0), (4, 1.5), (3, 1.0)]], [[]]]))
    assert found == [[(3, about(1 / 61)), (4, about(1 / 62))]]


def test_nulls() -> None:
    nothing = (None, None)
    both = stage("rrf", ["a", "b"])
    assert fused(both, [nothing, nothing]) == nothing
    found = hits(fused(both, [nothing, [[(1, 2.0)], None]]))
    assert found == [[(1, about(1 / 61))], None]
    assert hits(fused(both, [[None], [[]]])) == [[]]  # found nothing, which is not null


def test_spans_and_texts_are_left_behind() -> None:
    full = Ranking([0, 1], [3], [1.0], WIKI, spans=[[0, 4]], texts=["x"])
    ranking = fused(stage("rrf", ["a", "b"]), [full, Ranking([0, 1], [3], [1.0], WIKI)])
    assert (ranking.spans, ranking.texts, ranking.evidence) == (None, None, {})


def test_a_passage_keeps_the_evidence_of_the_first_ranking_that_has_some() -> None:
    one = Ranking([0, 2, 3], [3, 4, 3], [2.0, 1.0, 1.0], WIKI, evidence={"terms": [1, None, 2]})
    two = Ranking([0, 1, 2], [4, 3], [1.0, 1.0], WIKI, evidence={"terms": [3, 4], "more": [5, 6]})
    ranking = fused(stage("rrf", ["a", "b", "c"]), [Ranking.of([[(1, 1.0)], []], WIKI), one, two])
    found = dict(zip(zip(ranking.row_of, ranking.docs, strict=True), range(4), strict=True))
    terms, more = ranking.evidence["terms"], ranking.evidence["more"]
    said = {pair: (terms[at], more[at]) for pair, at in found.items()}
    assert said == {(0, 1): (None, None), (0, 3): (1, None), (0, 4): (3, 5), (1, 3): (2, 6)}


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_fails_its_row_in_linear_alone(score: float) -> None:
    given: list[Any] = [[[(1, score), (2, 1.0)], [(1, 1.0)]], [[(1, 1.0)], [(1, 1.0)]]]
    run = Run()
    assert hits(fused(stage("minmax", ["a", "b"]), given, run))[1] == [(1, 2.0)]
    assert run.failed.keys() == {0}
    assert "a or b: a score is not finite" in str(run.failed[0])
    run = Run()
    assert [doc for doc, _ in hits(fused(stage("rrf", ["a", "b"]), given, run))[0] or []] == [1, 2]
    assert not run.failed


def test_two_collections_are_not_mixed() -> None:
    other = Ranking([0, 1], [0], [1.0], OTHER)
    with pytest.raises(InvalidInput, match="two collections are mixed in one ranking") as caught:
        fused(stage("rrf", ["a", "b"]), [[[(1, 1.0)]], other])
    assert WIKI.identity in str(caught.value) and OTHER.identity in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "of\n  Field required"),
        ({"of": ["a"]}, "at least 2 items"),
        ({"of": ["a", "a"]}, "'a' stands twice; give it a weight of 2"),
        ({"of": ["a", "b"], "normalize": "minmax"}, "leave 'normalize' out, or set method: linear"),
        ({"of": ["a", "b"], "weights": []}, "0 for 2 rankings; give one for each of a, b"),
        ({"of": ["a", "b"], "weights": [1.0, -1.0]}, "expected numbers of 0 or more"),
        ({"of": ["a", "b"], "weights": [0.0, 0.0]}, "and one above 0"),
        ({"of": ["a", "b"], "weights": [1.0, math.inf]}, "expected numbers of 0 or more"),
        ({"of": ["a", "b"], "top_k": 0}, "greater than 0"),
        ({"of": ["a", "b"], "method": "mean"}, "'rrf' or 'linear'"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Fuse(**settings)
    assert said in str(caught.value)


def test_a_missing_ranking_is_found_before_anything_is_opened() -> None:
    with pytest.raises(MissingColumn, match="'fuse' reads column 'lexical'"):
        Pipeline([Fuse(of=["lexical", "semantic"])])
    have = Columns().put(a="ranking").at("fuse")
    with pytest.raises(InvalidInput, match="reads column 'query' as ranking"):
        Fuse(of=["a", "query"]).columns(have)
