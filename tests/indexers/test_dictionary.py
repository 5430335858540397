"""Look-ups of single terms, and what is built on them, against the texts themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import Damaged, InvalidInput
from rag.indexers import Lexical
from rag.indexers.lexical_index import LexicalIndex
from rag.indexers.tokenizer import Terms

PLAIN = Lexical(stemmer="none", stopwords="none")
WORD = st.sampled_from(["ab", "abc", "abd", "b0", "b1", "zz", "über", "üb", "𝒜𝒜", "東京"])
TEXTS = st.lists(st.lists(WORD, max_size=9).map(" ".join), max_size=12)


def table(texts: Sequence[str], titles: Sequence[str] | None = None) -> pa.Table:
    columns = {"title": titles or [""] * len(texts), "text": texts}
    return pa.table({name: pa.array(list(c), pa.large_string()) for name, c in columns.items()})


def index(
    parts: Sequence[Sequence[str]], folder: str | Path, kind: Lexical = PLAIN
) -> LexicalIndex:
    folders = [Path(folder) / str(number) for number in range(len(parts))]
    for texts, place in zip(parts, folders, strict=True):
        place.mkdir()
        kind.build(table(texts), place)
    return kind.open(folders)


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXTS, max_size=3), st.lists(WORD, min_size=1, max_size=5))
def test_explained_parts_add_up_to_the_score(parts: list[list[str]], words: list[str]) -> None:
    texts = [text.split() for part in parts for text in part]
    with tempfile.TemporaryDirectory() as folder:
        opened = index(parts, folder)
        _, rows, scores = opened.search([" ".join(words)], 100, k1=1.1, b=0.6)
        found = dict(zip(rows.tolist(), scores.tolist(), strict=True))
        for row, text in enumerate(texts):
            explained = opened.explain(" ".join(words), row, k1=1.1, b=0.6)
            assert explained == opened.explain(words, row, k1=1.1, b=0.6)
            assert {(t.term, t.in_query, t.tf, t.df) for t in explained} == {
                (word, words.count(word), text.count(word), sum(word in other for other in texts))
                for word in words
            }
            assert {t.length for t in explained} == {len(text)}
            total = sum(t.score for t in explained)
            assert total == pytest.approx(found.get(row, 0.0), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(TEXTS, max_size=3),
    st.sampled_from(["", "a", "ab", "abc", "b", "ü", "üb", "z", "zzz", "東", "𝒜", "q"]),
    st.lists(WORD, max_size=3),
)
def test_prefixes_and_rows_with_terms(
    parts: list[list[str]], prefix: str, words: list[str]
) -> None:
    texts = [text.split() for part in parts for text in part]
    begins = sorted({word for text in texts for word in text if word.startswith(prefix)})
    with tempfile.TemporaryDirectory() as folder:
        opened = index(parts, folder)
        assert opened.expand(prefix, most=20) == begins
        held = opened.rows_with(words)
        assert held.tolist() == [set(words) <= set(text) for text in texts]
        if begins:
            with pytest.raises(InvalidInput, match=r"\* stands for .* at most 0 can be searched"):
                opened.expand(prefix, most=0)


def test_a_prefix_of_too_many_terms_over_all_segments_is_refused(tmp_path: Path) -> None:
    opened = index([["aa0 aa1 aa2"], ["aa2 aa3 aa4"]], tmp_path)
    assert opened.expand("aa", most=5) == ["aa0", "aa1", "aa2", "aa3", "aa4"]
    with pytest.raises(InvalidInput, match=r"aa\* stands for 5 .* at most 4"):
        opened.expand("aa", most=4)


def test_explanations_across_windows_and_of_large_counts(tmp_path: Path) -> None:
    texts = [""] * 70_000
    for row in (3, 65_535, 65_536, 69_999):
        texts[row] = "aa bb " + "cc " * (row // 200)
    opened = index([texts], tmp_path)
    _, rows, scores = opened.search(["aa cc"], 10)
    assert sorted(rows.tolist()) == [3, 65_535, 65_536, 69_999]
    for row, score in zip(rows.tolist(), scores, strict=True):
        parts = opened.explain("aa cc", row)
        assert {t.term: t.tf for t in parts} == {"aa": 1, "cc": row // 200}
        assert np.float32(sum(t.score for t in parts)) == pytest.approx(score, rel=1e-6)
    assert [t.tf for t in opened.explain("aa cc", 4)] == [0, 0]


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    opened = index([["aa"]], tmp_path)
    for row in (-1, 1):
        with pytest.raises(InvalidInput, match=f"row {row} .* 1 rows"):
            opened.explain("aa", row)
    assert [t.score for t in opened.explain("nowhere", 0)] == [0.0]


def test_searching_terms_is_searching_their_text(tmp_path: Path) -> None:
    opened = index([["aa bb", "bb cc cc"], ["cc"]], tmp_path)
    lists = [["cc", "bb", "cc"], [], ["zz"]]
    for ours, theirs in zip(
        opened.search(Terms.of(lists), 5),
        opened.search([" ".join(words) for words in lists], 5),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "value", "asks"),
    [
        ("group_texts", 10**6, "expand"),
        ("group_texts", 0, "expand"),
        ("group_runs", 10**6, "rows_with"),
        ("group_runs", 10**6, "explain"),
        ("run_starts", 2**32 - 1, "rows_with"),
        ("run_starts", 2**32 - 1, "explain"),
        ("rows", 60_000, "rows_with"),
        ("run_windows", 9, "rows_with"),
        ("large_positions", 10**6, "explain"),
    ],
)
def test_damaged_arrays_are_named(tmp_path: Path, name: str, value: int, asks: str) -> None:
    """Every place of an array in turn holds a wrong value; the file is named, or not needed."""
    others = " ".join(f"m{n}" for n in range(40))  # several groups of terms
    texts = ["aa bb " + "aa " * 300, f"aa ab cc {others}", "bb cc aa"]
    index([texts], tmp_path)
    file = tmp_path / "0" / f"{name}.npy"
    good, told = np.load(file), 0
    for place in range(len(good) - (name not in ("rows", "run_windows", "large_positions"))):
        array = good.copy()
        array[place] = value
        np.save(file, array)
        opened = PLAIN.open([tmp_path / "0"])
        try:
            if asks == "expand":
                opened.expand("a", most=9)
            elif asks == "rows_with":
                opened.rows_with(["aa", "bb"])
            else:
                opened.explain("aa cc", 0)
        except Damaged as error:
            told += 1
            assert f"{name}.npy" in str(error)
            assert "'rag verify' names all damage" in str(error)
    assert told
