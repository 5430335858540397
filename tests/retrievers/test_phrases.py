"""Phrases and prefixes against a reading of all texts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag import Collection
from rag.batch import Batch
from rag.errors import InvalidInput
from rag.indexers import Lexical
from rag.retrievers import BM25
from rag.retrievers.lexical_query import LexicalQuery, read
from rag.stage import Context, Run

WORDS = st.lists(st.sampled_from(["runs", "dog", "dogs", "the", "of", "cat"]), max_size=6)
TEXT = WORDS.map(" ".join)


def run(collection: Collection, queries: list[Any], **settings_: Any) -> tuple[Batch, Run]:
    stage = BM25.model_validate({"syntax": "phrases", **settings_})
    made, call = Batch.of([str(n) for n in range(len(queries))]), Run()
    return stage.open(Context(collection.snapshot()))(made.put(query=queries), call), call


def stands(phrase: list[str], text: str, tokenizer: Any) -> bool:
    words = tokenizer.tokens([text])[0]
    return any(words[i : i + len(phrase)] == phrase for i in range(len(words)))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12),
    st.lists(WORDS.filter(lambda words: set(words) - {"the", "of"}), min_size=1, max_size=2),
    TEXT,
    st.integers(1, 4),
    st.integers(0, 2),
)
def test_all_passages_with_the_phrases_are_found(
    rows: list[tuple[str, str]], phrases: list[list[str]], rest: str, k: int, weight: int
) -> None:
    documents = [
        {"id": f"d{n:02}", "title": title, "text": text or "x"}
        for n, (title, text) in enumerate(rows)
    ]
    query = " ".join(f'"{" ".join(words)}"' for words in phrases) + f" {rest}"
    with tempfile.TemporaryDirectory() as name:
        kind = Lexical(title_weight=weight)
        made, _ = Collection.build(
            documents, Path(name) / "c", segment_rows=5, indexes={"lexical": kind}
        )
        index = made.snapshot().index("lexical")
        whole = index.tokenizer.with_stop_words()
        wanted = [whole.tokens([" ".join(words)])[0] for words in phrases]
        plain, _ = run(made, [[query]], syntax="plain", top_k=99)
        order = [hit.id for hit in plain["documents"][0]]
        expected = [
            documents[int(id_[1:])]["id"]
            for id_ in order
            if all(
                stands(phrase, documents[int(id_[1:])]["text"], whole)
                or (weight > 0 and stands(phrase, documents[int(id_[1:])]["title"], whole))
                for phrase in wanted
            )
        ]
        after, call = run(made, [[query]], top_k=k)
        assert not call.failed
        assert [hit.id for hit in after["documents"][0]] == expected[:k]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """300 passages with the words of a phrase, the best 299 in the wrong order."""
    rows = [{"id": f"p{n}", "title": "", "text": "lazy quick fox"} for n in range(299)]
    rows.append({"id": "right", "title": "", "text": "the quick lazy fox " + "and more " * 50})
    made, _ = Collection.build(rows, tmp_path_factory.mktemp("phrases") / "c", segment_rows=100)
    return made


def test_the_last_candidate_is_found(many: Collection) -> None:
    after, _ = run(many, [['"quick lazy"'], ['"quick lazy" and "more and more"'], ['"quick fox"']])
    ids = [[hit.id for hit in row] for row in after["documents"]]
    assert ids[:2] == [["right"], ["right"]] and len(ids[2]) == 100


def test_prefixes_stand_for_the_terms_of_the_index(many: Collection) -> None:
    index = many.snapshot().index("lexical")
    assert read("Qu*, l* fox", index, "phrases") == LexicalQuery(["fox", "quick", "lazi"], [])
    assert read("nothing* * fo*", index, "phrases").terms == ["fox"]
    assert read('"qu* lazy"', index, "phrases") == LexicalQuery(["qu", "lazi"], ["qu* lazy"])
    after, _ = run(many, [["mor*"], ["zz*"]])
    assert [[hit.id for hit in row] for row in after["documents"]] == [["right"], []]


def test_plain_queries_take_quotes_and_stars_for_text(many: Collection) -> None:
    index = many.snapshot().index("lexical")
    assert read('"quick* "lazy', index) == LexicalQuery(["quick", "lazi"], [])


def test_a_query_that_cannot_be_read_fails_its_row_alone(many: Collection) -> None:
    queries = [['"quick lazy'], ['"quick lazy"'], ['"of the" fox'], ['fox ""']]
    after, call = run(many, queries)
    assert [len(row) for row in after["documents"]] == [0, 1, 0, 0]
    assert sorted(call.failed) == [0, 2, 3]
    assert "a quote is not closed" in str(call.failed[0])
    assert 'the phrase "of the" has no word that is indexed' in str(call.failed[2])


def test_a_prefix_of_too_many_terms_is_refused_and_not_cut(tmp_path: Path) -> None:
    text = " ".join(f"w{n}" for n in range(1025))
    made, _ = Collection.build([{"id": "a", "title": "", "text": text}], tmp_path / "c")
    index = made.snapshot().index("lexical")
    assert len(read("w1*", index, "phrases").terms) == 137 - 1
    with pytest.raises(InvalidInput, match=r"w\* stands for 1,025 .* at most 1,024"):
        read("w*", index, "phrases")
