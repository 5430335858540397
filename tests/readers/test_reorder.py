"""The published permutation, against a list of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.batch import Batch
from rag.errors import InvalidInput, MissingColumn
from rag.ranking import Ranking
from rag.readers import Reorder
from rag.readers.reorder import both_ends
from rag.stage import Columns, Context, Run
from rag.testing import MemorySnapshot, check_stage

WIKI = MemorySnapshot([{"id": f"p{n}", "text": f"Text {n}."} for n in range(12)])


def naive(row: list[int]) -> list[int]:
    return row[::2] + row[1::2][::-1]


@pytest.mark.parametrize(
    ("n", "order"),
    [
        (0, []),
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 3, 2]),
        (4, [1, 3, 4, 2]),
        (5, [1, 3, 5, 4, 2]),
        (6, [1, 3, 5, 6, 4, 2]),
        (10, [1, 3, 5, 7, 9, 10, 8, 6, 4, 2]),
    ],
)
def test_odd_ranks_ascend_and_even_ones_descend(n: int, order: list[int]) -> None:
    ranking = Ranking.of([[(doc, 1.0 / doc) for doc in range(1, n + 1)]], WIKI)
    assert both_ends(ranking).docs.tolist() == order


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.integers(0, 11), max_size=11, unique=True), max_size=6))
def test_many_rows_at_once_equal_one_after_another(rows: list[list[int] | None]) -> None:
    entries = [None if row is None else [(doc, float(doc)) for doc in row] for row in rows]
    ranking = Ranking.of(entries, WIKI)
    ranking = ranking.put(
        texts=[f"rewritten {doc}" for doc in ranking.docs],
        evidence={"terms": [[int(doc)] for doc in ranking.docs]},
        spans=np.stack([ranking.docs, ranking.docs + 1], axis=1),
    )
    made = both_ends(ranking)
    assert made.docs.tolist() == [doc for row in rows for doc in naive(row or [])]
    assert made.offsets.tolist() == ranking.offsets.tolist()
    assert made.is_valid.tolist() == [row is not None for row in rows]
    assert made.scores.tolist() == made.docs.tolist()
    assert made.texts == tuple(f"rewritten {doc}" for doc in made.docs)
    assert made.evidence["terms"] == tuple([int(doc)] for doc in made.docs)
    assert made.spans is not None and made.spans[:, 0].tolist() == made.docs.tolist()


def test_the_stage_keeps_the_contract() -> None:
    ranking = Ranking.of([[(0, 3), (1, 2), (2, 1)], [], None, [(4, 1)]], WIKI)
    batch = Batch.of(list("abcd")).put(documents=ranking)
    after = check_stage(Reorder(), batch)
    assert [[hit.id for hit in hits] for hits in after["documents"]] == [
        ["p0", "p2", "p1"],
        [],
        [],
        ["p4"],
    ]
    kept = check_stage(Reorder(into="ends"), batch)
    assert kept["documents"] == ranking and kept["ends"] == after["documents"]


def test_a_column_of_nulls_stays_null() -> None:
    batch = Batch.of(["a"]).put(documents=[None])
    assert Reorder().open(Context())(batch, Run()) == batch


def test_it_needs_a_ranking() -> None:
    with pytest.raises(MissingColumn, match="put a retriever"):
        Reorder().columns(Columns().at("reorder"))
    with pytest.raises(InvalidInput, match="reads column 'question' as ranking"):
        Reorder(of="question").columns(Columns().at("reorder"))
