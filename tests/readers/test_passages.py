"""Which passages a reader is given, and where their texts lie in the stored ones."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.ranking import Ranking
from rag.readers import passages as room
from rag.readers.passages import passages
from rag.testing import MemorySnapshot

TEXTS = [f"Passage {n} begins. It goes on. It ends here, at {n}." for n in range(8)]
WIKI = MemorySnapshot([{"id": f"p{n}", "title": f"T{n}", "text": t} for n, t in enumerate(TEXTS)])


@settings(deadline=None)
@given(
    st.lists(
        st.none() | st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), max_size=7),
        max_size=5,
    ),
    st.integers(1, 4),
)
def test_the_best_by_score_in_reading_order(
    rows: list[list[tuple[int, int]] | None], n: int
) -> None:
    given_ = list(passages(Ranking.of(rows, WIKI), n))
    assert len(given_) == len(rows)
    for row, found in zip(rows, given_, strict=True):
        listed = list(enumerate(row or [], 1))
        best = sorted(listed, key=lambda entry: (-entry[1][1], entry[0]))[:n]
        expected = [(rank, f"p{doc}", float(score)) for rank, (doc, score) in sorted(best)]
        assert [(p.rank, p.id, p.score) for p in found] == expected


def test_long_batches_are_read_in_slices() -> None:
    rows = [[(row % 8, 1.0), ((row + 3) % 8, 0.5)] for row in range(room.ROWS + 5)]
    found = list(passages(Ranking.of(rows, WIKI), 1))
    assert [p[0].id for p in found] == [f"p{row % 8}" for row in range(len(rows))]


def test_nan_scores_are_the_worst() -> None:
    ranking = Ranking.of([[(0, math.nan), (1, 1.0), (2, 2.0)]], WIKI)
    assert [p.id for p in next(passages(ranking, 2))] == ["p1", "p2"]


def test_spans_and_rewritten_texts() -> None:
    ranking = Ranking.of([[(0, 2.0), (1, 1.0), (2, 0.5)]], WIKI)
    whole = np.iinfo(np.int32).max
    ranking = ranking.put(spans=[[18, 30], [0, whole], [3, 5]], texts=[None, None, "In short."])
    cut, uncut, rewritten = next(passages(ranking, 3))
    assert cut.text == TEXTS[0][18:30] == cut.stored[cut.start : cut.end]
    assert cut.sentences() == [(18, 29)]  # without the space behind it
    assert (uncut.text, uncut.start, uncut.end) == (TEXTS[1], 0, len(TEXTS[1]))
    assert rewritten.text == "In short."
    assert (rewritten.start, rewritten.end) == (0, len(TEXTS[2]))
    assert [hit.text for hit in ranking[0]] == [cut.text, uncut.text, rewritten.text]


def test_a_column_of_nulls_gives_no_passages() -> None:
    assert list(passages((None, None), 3)) == [[], []]
