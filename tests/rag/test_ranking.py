"""Ranking operations against plain lists."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InvalidInput
from rag.ranking import Hit, Ranking
from rag.testing import MemorySnapshot

WIKI = MemorySnapshot(
    [{"id": f"p{n}", "title": f"T{n}", "text": f"The text of passage {n}."} for n in range(20)]
)
OTHER = MemorySnapshot([{"text": "alone"}])


class Entry(NamedTuple):
    """One passage of a row, as the plain lists have it."""

    doc: int
    score: float
    span: tuple[int, int] | None = None
    text: str | None = None
    terms: Any = None


quick = settings(max_examples=60, deadline=None)  # a busy machine has no deadlines
Rows = list[list[Entry] | None]


def ranking(rows: Rows, spans: bool, texts: bool, terms: bool) -> Ranking:
    flat = [entry for row in rows for entry in row or ()]
    return Ranking(
        np.cumsum([0, *(len(row or ()) for row in rows)]),
        [entry.doc for entry in flat],
        [entry.score for entry in flat],
        WIKI,
        spans=np.reshape([entry.span for entry in flat], (-1, 2)) if spans else None,
        texts=[entry.text for entry in flat] if texts else None,
        evidence={"terms": [entry.terms for entry in flat]} if terms else None,
        valid=[row is not None for row in rows] if None in rows else None,
    )


def rows_of(given: Ranking) -> Rows:
    """The plain lists of a ranking."""
    rows: Rows = []
    for row in range(len(given)):
        part = range(given.offsets[row], given.offsets[row + 1])
        entries = [
            Entry(
                int(given.docs[i]),
                float(given.scores[i]),
                None if given.spans is None else tuple(given.spans[i].tolist()),
                None if given.texts is None else given.texts[i],
                given.evidence["terms"][i] if given.evidence else None,
            )
            for i in part
        ]
        rows.append(entries if given.is_valid[row] else None)
    return rows


@st.composite
def plain_rows(draw: st.DrawFn, kinds: tuple[bool, bool, bool]) -> Rows:
    spans, texts, terms = kinds
    entry = st.builds(
        Entry,
        st.integers(0, 19),
        st.floats(width=32, allow_nan=False),
        st.tuples(st.integers(0, 30), st.integers(0, 30)) if spans else st.none(),
        st.none() | st.text(max_size=3) if texts else st.none(),
        st.lists(st.integers(), max_size=2) if terms else st.none(),
    )
    return draw(st.lists(st.none() | st.lists(entry, max_size=5), max_size=5))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Rows, Ranking]:
    kinds = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    rows = draw(plain_rows(kinds))
    return rows, ranking(rows, *kinds)


@quick
@given(pairs())
def test_a_ranking_holds_what_it_was_made_of(pair: tuple[Rows, Ranking]) -> None:
    rows, made = pair
    assert rows_of(made) == rows
    assert len(made) == len(rows)
    assert made.counts.tolist() == [len(row or ()) for row in rows]
    assert made.row_of.tolist() == [n for n, row in enumerate(rows) for _ in row or ()]
    assert made.rank_of.tolist() == [rank for row in rows for rank in range(len(row or ()))]
    kinds = made.spans is not None, made.texts is not None, bool(made.evidence)
    assert made == ranking(rows, *kinds)


@quick
@given(pairs(), st.data())
def test_take(pair: tuple[Rows, Ranking], data: st.DataObject) -> None:
    rows, made = pair
    count = len(rows)
    chosen = data.draw(st.lists(st.integers(-count, count - 1), max_size=6)) if count else []
    assert rows_of(made.take(chosen)) == [rows[row] for row in chosen]
    with pytest.raises(IndexError):
        made.take([count])


@quick
@given(pairs(), st.data())
def test_keep(pair: tuple[Rows, Ranking], data: st.DataObject) -> None:
    rows, made = pair
    count = len(made.docs)
    mask = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    keep = iter(mask)
    expected = [None if row is None else [entry for entry in row if next(keep)] for row in rows]
    assert rows_of(made.keep(np.array(mask, np.bool_))) == expected


@quick
@given(pairs(), st.integers(0, 6))
def test_top(pair: tuple[Rows, Ranking], k: int) -> None:
    rows, made = pair
    assert rows_of(made.top(k)) == [None if row is None else row[:k] for row in rows]


@quick
@given(pairs())
def test_by_score(pair: tuple[Rows, Ranking]) -> None:
    rows, made = pair
    expected = [None if r is None else sorted(r, key=lambda e: (-e.score, e.doc)) for r in rows]
    assert rows_of(made.by_score()) == expected


@quick
@given(pairs(), st.data())
def test_reorder(pair: tuple[Rows, Ranking], data: st.DataObject) -> None:
    rows, made = pair
    orders = [data.draw(st.permutations(range(len(row or ())))) for row in rows]
    entries = [int(s) + n for s, order in zip(made.offsets, orders, strict=False) for n in order]
    expected = [
        None if row is None else [row[n] for n in order]
        for row, order in zip(rows, orders, strict=True)
    ]
    assert rows_of(made.reorder(np.array(entries, np.int64))) == expected


@pytest.mark.parametrize("order", [[0, 0, 2], [1, 0], [2, 1, 0], [0, 1, 2, 2], [0, 1, 3]])
def test_reorder_refuses_what_is_no_order_of_each_row(order: list[int]) -> None:
    made = Ranking.of([[(1, 2.0), (2, 1.0)], [(3, 0.5)]], WIKI)
    with pytest.raises(InvalidInput, match="ranking: a new order"):
        made.reorder(np.array(order))


@quick
@given(st.lists(pairs(), min_size=1, max_size=3))
def test_concat(several: list[tuple[Rows, Ranking]]) -> None:
    made = Ranking.concat([pair[1] for pair in several])
    some_spans = any(pair[1].spans is not None for pair in several)
    whole = (0, np.iinfo(np.int32).max) if some_spans else None
    expected = [
        None if row is None else [e if e.span else e._replace(span=whole) for e in row]
        for rows, _ in several
        for row in rows
    ]
    assert rows_of(made) == expected


scored = st.tuples(st.integers(0, 19), st.floats(width=32))


@quick
@given(st.lists(st.none() | st.lists(scored, max_size=4)))
def test_of(rows: list[list[tuple[int, float]] | None]) -> None:
    made = Ranking.of(rows, WIKI)
    back = [None if r is None else [(e.doc, e.score) for e in r] for r in rows_of(made)]
    for left, right in zip(back, rows, strict=True):
        assert (left is None) == (right is None)
        for (doc, score), (its_doc, its_score) in zip(left or (), right or (), strict=True):
            assert doc == its_doc
            assert score == its_score or (math.isnan(score) and math.isnan(its_score))


@quick
@given(pairs())
def test_a_row_reads_as_hits(pair: tuple[Rows, Ranking]) -> None:
    rows, made = pair
    for number, row in enumerate(rows):
        expected = []
        for entry in row or ():
            text = f"The text of passage {entry.doc}."
            text = text if entry.span is None else text[entry.span[0] : entry.span[1]]
            text = text if entry.text is None else entry.text
            expected.append(Hit(f"p{entry.doc}", f"T{entry.doc}", text, entry.score))
        assert made[number] == made[number - len(rows)] == expected
    with pytest.raises(IndexError):
        made[len(rows)]


def test_put_replaces_arrays_and_keeps_the_rest() -> None:
    made = Ranking.of([[(1, 2.0)], None], WIKI).put(spans=[[0, 3]], evidence={"terms": [["a"]]})
    assert made[0] == [Hit("p1", "T1", "The", 2.0)]
    again = made.put(scores=[5.0], texts=["new"])
    assert (again[0][0].score, again[0][0].text) == (5.0, "new")
    assert again.evidence == made.evidence
    assert again.is_valid.tolist() == [True, False]
    with pytest.raises(TypeError):
        made.put(colour=[1])


def test_arrays_cannot_be_written() -> None:
    made = Ranking.of([[(1, 2.0)]], WIKI)
    for array in (made.offsets, made.docs, made.scores, made.by_score().docs):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"offsets": [0, 1]}, "offsets must run from 0 to 2"),
        ({"offsets": []}, "offsets must run from 0 to 2"),
        ({"offsets": [1, 2]}, "offsets must run from 0 to 2"),
        ({"offsets": [0, 3, 2]}, "offsets fall"),
        ({"scores": [1.0]}, "1 scores for 2 passages"),
        ({"spans": [[0, 1]]}, "1 spans for 2 passages"),
        ({"spans": [0, 1]}, r"spans have shape \(2,\), not \(2, 2\)"),
        ({"texts": ["a"]}, "1 texts for 2 passages"),
        ({"evidence": {"terms": [1, 2, 3]}}, "3 terms for 2 passages"),
        ({"valid": [True]}, "1 valid flags for 2 rows"),
        ({"valid": [True, False]}, "a row without a ranking holds passages"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = {"offsets": [0, 1, 2], "docs": [3, 4], "scores": [1, 2]}
    with pytest.raises(InvalidInput, match=said):
        Ranking(**(good | {"snapshot": WIKI} | arrays))


def test_two_collections_are_not_mixed() -> None:
    with pytest.raises(InvalidInput, match="two collections are mixed in one ranking: memory-"):
        Ranking.concat([Ranking.of([[(0, 1.0)]], WIKI), Ranking.of([[(0, 1.0)]], OTHER)])
    with pytest.raises(InvalidInput, match="nothing to concatenate"):
        Ranking.concat([])
    assert Ranking.of([[(0, 1.0)]], WIKI) != Ranking.of([[(0, 1.0)]], OTHER)
    assert Ranking.of([None], WIKI) != Ranking.of([[]], WIKI)
