"""The stage ``bm25`` on a small collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rag import Collection, Pipeline
from rag.batch import Batch
from rag.errors import InvalidInput, NotFound
from rag.indexers import Lexical
from rag.retrievers import BM25
from rag.stage import Context
from rag.testing import check_stage

ROWS = [
    {"id": "cats", "title": "Cats", "text": "Cats purr and sleep."},
    {"id": "dogs", "title": "Dogs", "text": "Dogs bark at cats."},
    {"id": "birds", "title": "Birds", "text": "Birds sing; some birds sleep."},
    {"id": "fish", "title": "Fish", "text": "Fish swim."},
]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    made, _ = Collection.build(ROWS, tmp_path_factory.mktemp("bm25") / "c", segment_rows=2)
    made.delete(["fish"])
    return made


def batch(queries: list[Any]) -> Batch:
    made = Batch.of([f"question {n}" for n in range(len(queries))])
    return made.put(query=queries)


def found(collection: Collection, stage: BM25, queries: list[Any]) -> list[list[str]]:
    after = check_stage(stage, batch(queries), context=context(collection))
    return [[hit.id for hit in row] for row in after[stage.into]]


def context(collection: Collection) -> Context:
    return Context(collection.snapshot())


def test_one_query_a_row(collection: Collection) -> None:
    queries = [["sleep"], ["cat"], ["nowhere"], ["fish swim"]]
    ids = found(collection, BM25(), queries)
    assert [sorted(row) for row in ids] == [["birds", "cats"], ["cats", "dogs"], [], []]
    expected = [[hit.id for hit in collection.search(query[0])] for query in queries]
    assert ids == expected


def test_several_queries_a_row_and_rows_without(collection: Collection) -> None:
    queries = [["bark", "sing"], [], ["purr"], None, ["fish"]]
    for merge in ("rrf", "max"):
        ids = found(collection, BM25.model_validate({"merge": merge}), queries)
        assert [sorted(row) for row in ids] == [["birds", "dogs"], [], ["cats"], [], []]
    assert found(collection, BM25(top_k=2), [["bark", "cats"]]) == [["dogs", "cats"]]


def test_the_question_where_no_query_was_written(collection: Collection) -> None:
    pipeline = Pipeline([BM25(top_k=2)], collection=collection)
    after = pipeline.run(["who barks?", "who sings?"])
    assert [[hit.id for hit in row] for row in after["documents"]] == [["dogs"], ["birds"]]


def test_settings_are_read_and_checked(collection: Collection) -> None:
    stage = BM25(top_k=1, into="lexical", k1=0, b=0)
    assert found(collection, stage, [["sleep"]]) == [["cats"]]
    for bad in ({"top_k": 0}, {"b": 1.5}, {"k1": -1}, {"merge": "sum"}, {"topk": 3}):
        with pytest.raises(ValidationError):
            BM25.model_validate(bad)


def test_two_lexical_indexes_must_be_told_apart(tmp_path: Path) -> None:
    collection, _ = Collection.build(ROWS, tmp_path / "c")
    collection.add_index({"plain": Lexical(stemmer="none")})
    with pytest.raises(InvalidInput, match="several lexical indexes .* name one with 'index:'"):
        BM25().open(context(collection))
    assert found(collection, BM25(index="plain"), [["cat"], ["cats"]])[0] == []
    assert len(found(collection, BM25(index="lexical"), [["cat"]])[0]) == 2
    with pytest.raises(NotFound, match="no index 'other'; there are: lexical, plain"):
        BM25(index="other").open(context(collection))


def test_a_collection_without_the_index_says_how_to_add_it(tmp_path: Path) -> None:
    collection, _ = Collection.build(ROWS, tmp_path / "c", indexes={})
    with pytest.raises(NotFound, match="has no lexical index; 'rag index .* --index lexical' adds"):
        BM25().open(context(collection))


def test_a_filter_is_exact_and_checked_when_the_stage_opens(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{n}", "title": "", "text": "cats " * (n % 7 + 1), "year": 1980 + n}
        for n in range(60)
    ]
    made, _ = Collection.build(rows, tmp_path / "c", fields={"year": "int"}, segment_rows=20)
    made.delete(["p50"])
    everything = found(made, BM25(), [["cats"]])[0]
    stage = BM25.model_validate({"where": {"year": {"gte": 2025}}, "top_k": 9})
    for syntax in ("plain", "phrases"):
        got = found(made, stage.model_copy(update={"syntax": syntax}), [["cats"]])[0]
        assert got == [id_ for id_ in everything if int(id_[1:]) >= 45][:9]
    phrase = BM25.model_validate({"where": {"year": 1987}, "syntax": "phrases"})
    assert found(made, phrase, [['"cats cats"'], ['"cats dogs"']]) == [[], []]
    assert found(made, phrase.model_copy(update={"where": None}), [['"cats cats"']])[0]
    with pytest.raises(InvalidInput, match="unknown field 'yeer'; did you mean 'year'"):
        BM25.model_validate({"where": {"yeer": 1}}).open(context(made))
    with pytest.raises(ValidationError, match="unknown operator 'gt3'"):
        BM25.model_validate({"where": {"year": {"gt3": 1}}})


def test_short_lists_of_several_queries_are_fused_from_deeper_ones(tmp_path: Path) -> None:
    # "both" is second for each query, and first when their ranks are fused.
    rows = [
        {"id": "one", "title": "", "text": "cats cats cats"},
        {"id": "two", "title": "", "text": "dogs dogs dogs"},
        {"id": "both", "title": "", "text": "cats dogs and other words"},
    ]
    made, _ = Collection.build(rows, tmp_path / "c")
    assert found(made, BM25(top_k=1), [["cats", "dogs"], ["cats"]]) == [["both"], ["one"]]
    assert found(made, BM25(top_k=1, merge="max"), [["cats", "dogs"]]) == [["one"]]
