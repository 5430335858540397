"""Rankings without repetition, against naive versions over lists."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.collapse import by_document, near_duplicates, shingles
from rag.errors import InvalidInput
from rag.ranking import Ranking
from rag.testing import MemorySnapshot

ENTRIES = st.lists(
    st.none()
    | st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from([0.5, 1.0, 2.0, math.nan])),
        max_size=9,
        unique_by=lambda entry: entry[0],
    ),
    max_size=4,
)
DOCUMENTS = MemorySnapshot(
    [{"id": f"d{n % 4}#{n}", "document": f"d{n % 4}", "text": f"text {n}"} for n in range(12)]
)
WORDS = st.lists(st.sampled_from("abc"), max_size=9).map(" ".join)


def rows_of(ranking: Ranking) -> list[list[int]]:
    ends = ranking.offsets.tolist()
    docs = ranking.docs.tolist()
    return [docs[a:b] for a, b in pairwise(ends)]


@given(ENTRIES)
def test_the_best_passage_of_each_document_stays_in_its_place(
    rows: list[list[tuple[int, float]] | None],
) -> None:
    ranking = Ranking.of(rows, DOCUMENTS)
    expected = []
    for row in rows:
        best: dict[int, tuple[int, float]] = {}
        for doc, score in row or ():
            value = -math.inf if math.isnan(score) else score
            if doc % 4 not in best or value > best[doc % 4][1]:
                best[doc % 4] = (doc, value)
        winners = {doc for doc, _ in best.values()}
        expected.append([doc for doc, _ in row or () if doc in winners])
    found = by_document(ranking)
    assert rows_of(found) == expected
    assert np.array_equal(found.is_valid, ranking.is_valid)


def similarity(a: str, b: str) -> float:
    one, other = shingles(a), shingles(b)
    return len(one & other) / len(one | other)


@given(st.lists(st.lists(WORDS, max_size=8), max_size=3), st.sampled_from([0.2, 0.5, 0.75, 1.0]))
def test_texts_that_are_nearly_one_before_them_go(texts: list[list[str]], threshold: float) -> None:
    flat = [text for row in texts for text in row]
    starts = np.cumsum([0, *map(len, texts)])
    snapshot = MemorySnapshot([{"text": text} for text in flat])
    ranking = Ranking(starts, np.arange(len(flat)), np.zeros(len(flat)), snapshot)
    expected = []
    for row, start in zip(texts, starts.tolist(), strict=False):
        kept: list[int] = []
        for place, text in enumerate(row):
            if all(similarity(text, row[other]) < threshold for other in kept):
                kept.append(place)
        expected.append([start + place for place in kept])
    assert rows_of(near_duplicates(ranking, threshold)) == expected


def test_case_and_punctuation_do_not_matter_and_cut_texts_are_compared() -> None:
    texts = ["One two, three four five six.", "one TWO three four five six", "", "!?", "one two"]
    snapshot = MemorySnapshot([{"text": text} for text in texts])
    ranking = Ranking([0, 5], range(5), [5, 4, 3, 2, 1], snapshot)
    assert rows_of(near_duplicates(ranking)) == [[0, 2, 4]]
    cut = ranking.put(spans=[[0, 3], [0, 3], [0, 0], [0, 2], [0, 3]])
    assert rows_of(near_duplicates(cut)) == [[0, 2]]


def test_one_changed_word_of_a_hundred_is_a_near_duplicate() -> None:
    words = [f"w{n}" for n in range(100)]
    other = [*words[:99], "changed"]
    snapshot = MemorySnapshot([{"text": " ".join(words)}, {"text": " ".join(other)}])
    ranking = Ranking([0, 2], [0, 1], [2, 1], snapshot)
    assert rows_of(near_duplicates(ranking, 0.9)) == [[0]]
    assert rows_of(near_duplicates(ranking, 0.99)) == [[0, 1]]


@pytest.mark.parametrize("threshold", [0, -1, 1.1, math.nan])
def test_a_threshold_that_is_no_similarity_is_named(threshold: float) -> None:
    with pytest.raises(InvalidInput, match="found threshold = .* expected 0 < t <= 1"):
        near_duplicates(Ranking.of([], DOCUMENTS), threshold)
