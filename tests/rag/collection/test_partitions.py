"""Where partitions are cut, and what their keys depend on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.collection.build import keep_piece
from rag.collection.partitions import partition_key, partitions, runs
from rag.passages import passage_schema

SCHEMA = passage_schema({"flag": "bool", "number": "int", "ratio": "float", "word": "str"})
Row = dict[str, Any]

strings = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.fixed_dictionaries(
    {
        "title": strings,
        "text": strings,
        "flag": st.none() | st.booleans(),
        "number": st.none() | st.integers(-(2**63), 2**63 - 1),
        "ratio": st.none() | st.floats(),
        "word": st.none() | strings,
    }
)


def passages(rows: list[Row], prefix: str = "é") -> list[Row]:
    return [
        {**row, "id": f"{prefix}{n}", "document": f"{prefix}{n}", "part": 0, "start": 0}
        | {"end": len(row["text"]), "meta": "{}"}
        for n, row in enumerate(rows)
    ]


def batches(rows: list[Row], cuts: list[int]) -> list[pa.RecordBatch]:
    """The rows cut at ``cuts``, every other batch a slice of a larger one."""
    bounds = [0, *sorted({cut for cut in cuts if 0 < cut < len(rows)}), len(rows)]
    whole = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    return [
        whole.slice(start, end - start)
        if place % 2
        else pa.RecordBatch.from_pylist(rows[start:end], schema=SCHEMA)
        for place, (start, end) in enumerate(pairwise(bounds))
    ]


@settings(deadline=None)
@given(
    st.lists(values, min_size=1, max_size=60),
    st.lists(st.integers(1, 60)),
    st.integers(1, 25),
)
def test_keys_and_bytes_do_not_depend_on_how_batches_were_cut(
    rows: list[Row], cuts: list[int], size: int
) -> None:
    given_rows = passages(rows)
    cut = list(partitions(batches(given_rows, cuts), size))
    whole = list(partitions(batches(given_rows, []), size))
    assert [partition_key(part) for part in cut] == [partition_key(part) for part in whole]
    assert [part.serialize().to_pybytes() for part in cut] == [
        part.serialize().to_pybytes() for part in whole
    ]
    assert all(0 < part.num_rows <= size for part in cut)
    names = [name for part in cut for name in part["id"].to_pylist()]
    assert names == [row["id"] for row in given_rows]


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(values, min_size=1, max_size=20), at=st.integers(0, 19), change=values)
def test_a_key_changes_with_any_value_and_with_nothing_else(
    rows: list[Row], at: int, change: Row
) -> None:
    at %= len(rows)
    changed = [*rows[:at], change, *rows[at + 1 :]]
    keys = [
        [partition_key(part) for part in partitions(batches(passages(given_rows), []), 100)]
        for given_rows in (rows, changed)
    ]
    assert (keys[0] == keys[1]) == (repr(rows) == repr(changed))


def test_a_kept_piece_is_read_back_under_its_key(tmp_path: Path) -> None:
    rows = passages([{"text": "t", "title": "", "flag": n % 3 == 0 or None} for n in range(20)])
    for part in partitions(batches(rows, [3, 11]), 7):
        key = partition_key(part)
        assert keep_piece(tmp_path, part, key).read().equals(part)


def test_an_inserted_row_leaves_most_keys() -> None:
    rows = passages([{"title": "", "text": f"text {n}"} for n in range(3000)])
    new = {**rows[0], "id": "new", "document": "new"}
    before = [partition_key(part) for part in partitions(batches(rows, []), 100)]
    for place in (0, 777, 1500, 2990):
        inserted = [*rows[:place], new, *rows[place:]]
        after = [partition_key(part) for part in partitions(batches(inserted, []), 100)]
        assert len(set(before) - set(after)) <= 8
        # And what lies before the new row keeps its keys in any case.
        same = next(n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
        assert same >= place // 100 - 1


parts = st.lists(st.tuples(st.text("0123456789abcdef", min_size=4, max_size=4), st.integers(1, 9)))


@given(parts, st.integers(1, 40))
def test_runs_hold_every_part_once_in_order_and_fit(
    given_parts: list[tuple[str, int]], rows: int
) -> None:
    found = list(runs(given_parts, rows))
    assert [part for run in found for part in run] == given_parts
    for run in found:
        assert len(run) == 1 or sum(count for _, count in run) <= rows
