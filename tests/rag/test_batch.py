"""Batches against dicts of lists, and through Arrow."""

from __future__ import annotations

import io
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.batch import Batch, Citation, as_json
from rag.errors import InvalidInput, MissingColumn, NotFound
from rag.ranking import Hit, Ranking
from rag.testing import MemorySnapshot

WIKI = MemorySnapshot([{"id": f"p{n}", "text": f"text {n}"} for n in range(10)])
quick = settings(max_examples=50, deadline=None)  # a busy machine has no deadlines
texts = st.text(st.characters(codec="utf-8"), max_size=5)
citations = st.builds(
    Citation, st.integers(1, 9), texts, texts, st.integers(0, 99), st.integers(0, 99), texts
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": texts,
    "float": st.floats(width=32),
    "bool": st.booleans(),
    "texts": st.lists(texts, max_size=3).map(tuple),
    "citations": st.lists(citations, max_size=3).map(tuple),
    "struct": st.dictionaries(texts, json_values, max_size=3),
    "null": st.none(),
}


@st.composite
def rankings(draw: st.DrawFn, rows: int) -> Ranking:
    entry = st.tuples(st.integers(0, 9), st.floats(width=32))
    row = st.none() | st.lists(entry, max_size=3)
    made = Ranking.of(draw(st.lists(row, min_size=rows, max_size=rows)), WIKI)
    count = len(made.docs)

    def each(strategy: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(strategy, min_size=count, max_size=count))

    span = st.tuples(st.integers(0, 9), st.integers(0, 9))
    spans = np.reshape(each(span), (-1, 2)) if draw(st.booleans()) else None
    new_texts = each(st.none() | texts) if draw(st.booleans()) else None
    names = draw(st.sets(st.sampled_from(["terms", "ngrams", "id"])))
    evidence = {name: each(st.lists(st.integers(), max_size=2)) for name in sorted(names)}
    return made.put(spans=spans, texts=new_texts, evidence=evidence)


@st.composite
def batches(draw: st.DrawFn, rows: int | None = None, prefix: str = "") -> Batch:
    size = draw(st.integers(0, 4)) if rows is None else rows
    batch = Batch.of(draw(st.lists(texts, min_size=size, max_size=size)))
    ids = draw(st.lists(texts.filter(bool), min_size=size, max_size=size, unique=True))
    batch = Batch([prefix + name for name in ids], {n: batch[n] for n in batch.columns})
    for kind in draw(st.lists(st.sampled_from([*VALUES, "ranking"]), unique=True)):
        if kind == "ranking":
            batch = batch.put(c_ranking=draw(rankings(size)))
        else:
            value = st.none() | VALUES[kind]
            batch = batch.put(**{f"c_{kind}": draw(st.lists(value, min_size=size, max_size=size))})
    return batch


def lists(batch: Batch) -> dict[str, list[Any]]:
    """The batch as a dict of lists, rankings as lists of hits; comparable by ``repr``."""
    columns = {name: batch[name] for name in ("id", *batch.columns)}
    return {
        name: [
            None
            if isinstance(column, Ranking) and not column.is_valid[row]
            else dict(value)
            if isinstance(value, MappingProxyType)
            else value
            for row, value in enumerate(column)
        ]
        for name, column in columns.items()
    }


@quick
@given(batches())
def test_arrow_is_lossless(batch: Batch) -> None:
    table = batch.to_arrow()
    again = Batch.from_arrow(table, WIKI)
    assert again == batch
    assert repr(lists(again)) == repr(lists(batch))
    assert Batch.from_arrow(again.to_arrow(), WIKI) == batch


@quick
@given(batches(), st.data())
def test_a_part_of_a_table_is_that_part_of_the_batch(batch: Batch, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(batch)))
    stop = data.draw(st.integers(start, len(batch)))
    part = batch.to_arrow().slice(start, stop - start)
    assert Batch.from_arrow(part, WIKI) == batch.take(range(start, stop))


@quick
@given(batches())
def test_tables_of_one_schema_can_be_joined(left: Batch) -> None:
    tables = [left.to_arrow(), left.to_arrow().slice(1)]
    assert len(pa.concat_tables(tables)) == max(2 * len(left) - 1, 0)
    rows = [tables[0].slice(row, 1) for row in range(len(left))]
    assert Batch.from_arrow(pa.concat_tables([tables[0].slice(0, 0), *rows]), WIKI) == left


@quick
@given(batches())
def test_files_keep_everything(batch: Batch) -> None:
    table = batch.to_arrow()
    file = io.BytesIO()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    assert Batch.from_arrow(pa.ipc.open_file(file.getvalue()).read_all(), WIKI) == batch


def test_parquet_keeps_everything(tmp_path: Path) -> None:
    ranking = Ranking.of([[(3, 1.5), (1, math.nan)], None, []], WIKI)
    ranking = ranking.put(spans=[[0, 2], [1, 3]], texts=["a", None], evidence={"terms": [["x"], 0]})
    batch = Batch.of(["a", "b", "ü"]).put(
        documents=ranking,
        answer=["x", None, ""],
        confidence=[0.1, None, math.nan],
        good=[True, None, False],
        citations=[(), None, (Citation(1, "p1", "T", 0, 4, "text"),)],
        error=[{"stage": "s", "n": [1, math.inf]}, None, {}],
        nothing=[None, None, None],
    )
    pq.write_table(batch.to_arrow(), tmp_path / "b.parquet")
    assert Batch.from_arrow(pq.read_table(tmp_path / "b.parquet"), WIKI) == batch


def test_what_arrow_cannot_hold_is_refused() -> None:
    for batch in (Batch.of(["\ud800"]), Batch.of(["a"], ["\ud800"])):
        with pytest.raises(InvalidInput, match="surrogate"):
            batch.to_arrow()
    with pytest.raises(InvalidInput, match="field 'a' does not name its column type"):
        Batch.from_arrow(pa.table({"id": ["1"], "a": [1]}))
    with pytest.raises(InvalidInput, match="there is no column 'id'"):
        Batch.from_arrow(Batch.of(["a"]).to_arrow().drop_columns(["id"]))
    ranked = Batch.of(["a"]).put(documents=Ranking.of([[(9, 1.0)]], WIKI)).to_arrow()
    with pytest.raises(InvalidInput, match="column 'documents' ranks passages of memory-"):
        Batch.from_arrow(ranked)
    with pytest.raises(NotFound, match="no passage 'p9'"):
        Batch.from_arrow(ranked, MemorySnapshot([{"text": "another"}]))


@quick
@given(batches(), st.data())
def test_take(batch: Batch, data: st.DataObject) -> None:
    count = len(batch)
    rows = data.draw(st.permutations(range(count)))[: data.draw(st.integers(0, count))]
    chosen = [row - count * data.draw(st.booleans()) for row in rows]
    expected = {name: [column[r] for r in chosen] for name, column in lists(batch).items()}
    assert repr(lists(batch.take(chosen))) == repr(expected)


@quick
@given(st.tuples(batches(prefix="a"), batches(prefix="b"), batches(prefix="c")))
def test_concat(several: tuple[Batch, ...]) -> None:
    made = lists(Batch.concat(several))
    names = dict.fromkeys(name for batch in several for name in lists(batch))
    parts = [lists(batch) for batch in several]
    expected = {
        name: [
            value
            for part, batch in zip(parts, several, strict=True)
            for value in part.get(name, [None] * len(batch))
        ]
        for name in names
    }
    assert repr(made) == repr(expected)


@quick
@given(batches())
def test_the_rows_of_a_batch_put_together_are_the_batch(batch: Batch) -> None:
    pieces = [batch.take([]), *(batch.take([row]) for row in range(len(batch)))]
    assert Batch.concat(pieces) == batch


@quick
@given(batches(rows=3), st.lists(st.none() | texts, min_size=3, max_size=3))
def test_put(batch: Batch, values: list[str | None]) -> None:
    before = lists(batch)
    made = batch.put(c_str=values, new=values)
    assert repr(lists(made)) == repr(before | {"c_str": values, "new": values})
    assert repr(lists(batch)) == repr(before)
    assert made.columns["new"] == ("str" if any(v is not None for v in values) else "null")


def test_the_types_of_columns() -> None:
    batch = Batch.of(["a", "b"]).put(
        a=[None, 1],
        b=[np.float32(1.5), np.int8(2)],
        c=[np.True_, None],
        d=[[], ["x"]],
        e=[[], (Citation(1, "p", "", 0, 1, "x"),)],
        f=[[], None],
        g=[{"a": (1, 2)}, None],
        h=Ranking.of([None, None], WIKI),
    )
    kinds = ["float", "float", "bool", "texts", "citations", "texts", "struct", "ranking"]
    assert [batch.columns[name] for name in "abcdefgh"] == kinds
    assert batch["a"] == (None, 1.0)
    assert batch["d"] == ((), ("x",))
    assert batch["g"][0] == {"a": [1, 2]}
    assert batch.put(a=[0.1, 1e300])["a"] == (float(np.float32(0.1)), math.inf)


def test_of_and_reading() -> None:
    batch = Batch.of(["q1", "q2"])
    assert batch.ids == batch["id"] == ("0", "1")
    assert batch["query"] == (("q1",), ("q2",))
    assert "id" in batch
    assert "answer" not in batch
    assert batch.row(-1) == {"id": "1", "question": "q2", "query": ("q2",)}
    assert [row["question"] for row in batch] == ["q1", "q2"]
    assert repr(batch) == "<Batch: 2 rows; question: str, query: texts>"
    with pytest.raises(TypeError):
        batch.columns["x"] = "str"  # type: ignore[index]
    with pytest.raises(MissingColumn, match="no column 'answer' in the batch; it has: id, quest"):
        batch["answer"]
    with pytest.raises(TypeError):
        batch.put(e=[{"a": 1}, None])["e"][0]["a"] = 2


def test_batches_are_equal_by_value_and_type() -> None:
    batch = Batch.of(["a"])
    assert batch.put(x=[math.nan]) == batch.put(x=[math.nan])
    assert batch.put(x=[{"a": math.nan}]) == batch.put(x=[{"a": math.nan}])
    assert batch.put(x=[{"a": 1}]) != batch.put(x=[{"a": True}])
    assert batch.put(x=[1.0]) != batch.put(x=[True])
    assert batch.put(x=[None]) != batch
    assert batch != "batch"


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("text", "column 'x' must be a list with one value a row"),
        ({"a": 1}, "column 'x' must be a list with one value a row"),
        (["a"], "column 'x' has 1 values for 2 rows"),
        (Ranking.of([[]], WIKI), "column 'x' has 1 values for 2 rows"),
        (["a", 1], "column 'x' row 1: float after rows of str"),
        ([["a"], (Citation(1, "p", "", 0, 1, "x"),)], "row 1: citations after rows of texts"),
        ([[], "a"], "column 'x' row 1: str after rows of empty"),
        ([None, object()], "column 'x' row 1: object is no column type; expected one of str, "),
        ([1.0, object()], "column 'x' row 1: object is no column type"),
        ([["a", 1], None], "column 'x' row 0: list is no column type"),
        ([{"a": object()}, None], "column 'x' row 0: dict is no column type"),
        ([10**400, None], "column 'x' row 0: int is no column type"),
        ([b"a", None], "column 'x' row 0: bytes is no column type"),
    ],
)
def test_columns_that_are_refused(column: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Batch.of(["a", "b"]).put(x=column)


def test_batches_that_are_refused() -> None:
    with pytest.raises(InvalidInput, match="takes a list of questions"):
        Batch.of("question")
    with pytest.raises(InvalidInput, match="question 1 is None, not a text"):
        Batch.of(["a", None])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="the id 'x' stands in two rows"):
        Batch.of(["a", "b", "c"], ["y", "x", "x"])
    with pytest.raises(InvalidInput, match="row 0: the id is '', not a non-empty text"):
        Batch.of(["a"], [""])
    with pytest.raises(InvalidInput, match="column 'question' has 1 values for 2 rows"):
        Batch.of(["a"], ["1", "2"])
    for name in ("id", "question"):
        with pytest.raises(InvalidInput, match=f"column '{name}' is never overwritten"):
            Batch.of(["a"]).put(**{name: ["b"]})
    with pytest.raises(InvalidInput, match="nothing to concatenate"):
        Batch.concat([])
    with pytest.raises(InvalidInput, match="the id '0' stands in two rows"):
        Batch.concat([Batch.of(["a"]), Batch.of(["b"])])
    with pytest.raises(InvalidInput, match="column 'x' is float here and str there"):
        left, right = Batch.of(["a"], ["l"]), Batch.of(["a"], ["r"])
        Batch.concat([left.put(x=["a"]), right.put(x=[1])])


def test_values_as_json() -> None:
    cited = Citation(1, "p", "T", 0, 1, "x")
    value = {"a": [Hit("p", "T", "x", math.nan)], "c": (cited,), "n": math.nan}
    assert as_json(MappingProxyType(value)) == {
        "a": [{"id": "p", "title": "T", "text": "x", "score": None}],
        "c": [{"marker": 1, "id": "p", "title": "T", "start": 0, "end": 1, "text": "x"}],
        "n": None,
    }
