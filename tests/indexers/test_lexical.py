"""The lexical index against a naive BM25, bm25s, and itself in pieces."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa
import pytest
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from rag.collection.kinds import IndexKind
from rag.errors import Damaged, InvalidInput, NotFound, RagError
from rag.indexers import Lexical
from rag.indexers.lexical_index import LexicalIndex

EXAMPLE = Path(__file__).parents[2] / "examples" / "xquad-en"
PLAIN = Lexical(stemmer="none", stopwords="none")


def table(texts: Sequence[str], titles: Sequence[str] | None = None) -> pa.Table:
    columns = {"title": titles or [""] * len(texts), "text": texts}
    return pa.table({name: pa.array(list(c), pa.large_string()) for name, c in columns.items()})


def built(texts: Sequence[str], folder: Path, kind: Lexical = PLAIN) -> Path:
    folder.mkdir()
    kind.build(table(texts), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def hits(found: Any) -> list[list[tuple[int, float]]]:
    offsets, rows, scores = found
    assert (offsets.dtype, rows.dtype, scores.dtype) == (np.int64, np.int64, np.float32)
    spans = pairwise(offsets)
    return [list(zip(rows[i:j].tolist(), scores[i:j].tolist(), strict=True)) for i, j in spans]


def oracle(
    texts: Sequence[str], query: str, k1: float, b: float, keep: NDArray[np.bool_] | None = None
) -> list[tuple[int, float]]:
    """The formula, read out loud; all hits, best first."""
    docs = [text.split() for text in texts]
    lengths = np.array([len(doc) for doc in docs], float)
    scores = np.zeros(len(docs))
    for term in query.split():
        tf = np.array([doc.count(term) for doc in docs], float)
        idf = np.log(1 + (len(docs) - (tf > 0).sum() + 0.5) / ((tf > 0).sum() + 0.5))
        norm = k1 * (1 - b + b * lengths / lengths.mean()) if lengths.sum() else 1.0
        scores += idf * np.divide(tf, tf + norm, out=np.zeros_like(tf), where=tf > 0)
    found = [i for i in range(len(docs)) if scores[i] > 0 and (keep is None or keep[i])]
    return sorted(((i, scores[i]) for i in found), key=lambda hit: (-np.float32(hit[1]), hit[0]))


def same(found: list[tuple[int, float]], wanted: list[tuple[int, float]], k: int) -> None:
    """Equal scores rank by rank, and rows equal but for ties; rows with one score ascend."""
    assert len(found) == min(k, len(wanted))
    np.testing.assert_allclose([s for _, s in found], [s for _, s in wanted[:k]], rtol=1e-5)
    exact = dict(wanted)
    np.testing.assert_allclose([s for _, s in found], [exact[row] for row, _ in found], rtol=1e-5)
    assert found == sorted(found, key=lambda hit: (-hit[1], hit[0]))


WORD = st.sampled_from([f"w{i}" for i in range(12)])
TEXTS = st.lists(st.lists(WORD, max_size=12).map(" ".join), max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    TEXTS,
    st.lists(st.lists(WORD, max_size=5).map(" ".join), max_size=4),
    st.integers(1, 40),
    st.sampled_from([(0.9, 0.4), (1.2, 0.75), (0.0, 0.0), (2.0, 1.0)]),
    st.sampled_from([0.0, 0.1, 0.7]),
    st.randoms(use_true_random=False),
)
def test_search_equals_the_formula(
    texts: list[str],
    queries: list[str],
    k: int,
    k1_b: tuple[float, float],
    share: float,
    random: Any,
) -> None:
    keep = np.array([random.random() < share for _ in texts], bool)
    with tempfile.TemporaryDirectory() as name:
        index = PLAIN.open([built(texts, Path(name) / "i")])
        for mask in (None, keep):
            found = hits(index.search(queries, k, k1=k1_b[0], b=k1_b[1], keep=mask))
            for query, got in zip(queries, found, strict=True):
                same(got, oracle(texts, query, *k1_b, keep=mask), k)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, max_size=5), st.randoms(use_true_random=False))
def test_merge_of_parts_is_build_of_the_whole_byte_for_byte(
    parts: list[list[str]], random: Any
) -> None:
    keep: list[NDArray[np.bool_] | None] = [
        None if random.random() < 0.3 else np.array([random.random() < 0.6 for _ in part], bool)
        for part in parts
    ]
    kept = [
        text
        for part, mask in zip(parts, keep, strict=True)
        for text, stays in zip(part, [True] * len(part) if mask is None else mask, strict=True)
        if stays
    ]
    with tempfile.TemporaryDirectory() as name:
        folders = [built(part, Path(name) / str(i)) for i, part in enumerate(parts)]
        merged = Path(name) / "merged"
        merged.mkdir()
        PLAIN.merge(folders, keep, merged)
        assert contents(merged) == contents(built(kept, Path(name) / "whole"))


def zipf(rows: int, words: int, mean: int, seed: int = 3) -> list[str]:
    rng = np.random.default_rng(seed)
    names = [f"w{i}" for i in range(words)]
    chance = 1 / np.arange(2, words + 2)
    chance /= chance.sum()
    sizes = rng.poisson(mean, rows)
    draws = rng.choice(words, sizes.sum(), p=chance)
    ends = np.cumsum(sizes)
    return [" ".join(names[w] for w in draws[e - s : e]) for e, s in zip(ends, sizes, strict=True)]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[str], Path]:
    """140,000 short texts, so three windows; queries; and a folder with 1 and 7 segments."""
    texts = zipf(140_000, 5000, 6)
    folder = tmp_path_factory.mktemp("wide")
    built(texts, folder / "one")
    cuts = [0, 1, 300, 66_000, 66_000, 90_000, 139_000, 140_000]
    for i in range(7):
        built(texts[cuts[i] : cuts[i + 1]], folder / f"of-7-{i}")
    return texts, zipf(60, 5000, 4, seed=4), folder


def sevenths(folder: Path) -> list[Path]:
    return [folder / f"of-7-{i}" for i in range(7)]


def test_one_segment_and_seven_give_the_same_bits(
    wide: tuple[list[str], list[str], Path],
) -> None:
    texts, queries, folder = wide
    one, seven = PLAIN.open([folder / "one"]), PLAIN.open(sevenths(folder))
    keep = np.random.default_rng(1).random(len(texts)) < 0.05
    for k in (1, 10, 1000):
        for mask in (None, keep):
            wanted = one.search(queries, k, keep=mask)
            for got in (seven.search(queries, k, keep=mask),
                        one.search(queries, k, keep=mask, threads=3)):  # fmt: skip
                for left, right in zip(wanted, got, strict=True):
                    np.testing.assert_array_equal(left, right)
            assert mask is None or mask[wanted[1]].all()


def test_pruning_changes_nothing(wide: tuple[list[str], list[str], Path]) -> None:
    # With k beyond the matches no row can be left out, so the first ten of it are the truth.
    texts, queries, folder = wide
    index = PLAIN.open([folder / "one"])
    everything = hits(index.search(queries, len(texts)))
    for k in (1, 10, 100):
        assert hits(index.search(queries, k)) == [found[:k] for found in everything]
    for query, found in list(zip(queries, everything, strict=True))[:2]:
        same(found, oracle(texts, query, 0.9, 0.4), len(texts))


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.1, 0.13, 0.999])
@pytest.mark.parametrize("contiguous", [False, True])
def test_a_filter_leaves_out_the_other_rows_and_nothing_else(
    wide: tuple[list[str], list[str], Path], share: float, contiguous: bool
) -> None:
    texts, queries, folder = wide
    queries = queries[:20]
    one, seven = PLAIN.open([folder / "one"]), PLAIN.open(sevenths(folder))
    everything = hits(one.search(queries, len(texts)))
    keep = np.random.default_rng(2).random(len(texts)) < share
    if contiguous:  # across the border of two windows
        keep[:] = False
        keep[60_000 : 60_000 + int(share * 80_000)] = True
    keep.flags.writeable = False
    for k in (1, 10, 500):
        wanted = [[hit for hit in found if keep[hit[0]]][:k] for found in everything]
        for index in (one, seven, one):
            assert hits(index.search(queries, k, keep=keep)) == wanted
        assert hits(one.search(queries[:1], k, keep=keep)) == wanted[:1]


def test_a_filter_with_counts_beyond_254(tmp_path: Path) -> None:
    texts = ["aa bb " * (n % 600) + "cc" for n in range(2000)]
    index = PLAIN.open([built(texts, tmp_path / "i")])
    keep = np.arange(2000) % 97 == 3
    same(hits(index.search(["aa bb cc"], 5, keep=keep))[0],
         oracle(texts, "aa bb cc", 0.9, 0.4, keep), 5)  # fmt: skip


def test_a_mask_that_changes_between_searches_is_read_again(tmp_path: Path) -> None:
    index = PLAIN.open([built(["aa"] * 40, tmp_path / "i")])
    keep = np.zeros(40, bool)
    for row in (3, 5):
        keep[:] = False
        keep[row] = True
        assert [row for row, _ in hits(index.search(["aa"], 9, keep=keep))[0]] == [row]
    keep.flags.writeable = False
    for _ in range(2):
        assert [row for row, _ in hits(index.search(["aa"], 9, keep=keep))[0]] == [5]
    assert len(index._known) == 1
    del keep
    assert not index._known


def test_merge_across_windows(wide: tuple[list[str], list[str], Path], tmp_path: Path) -> None:
    _, _, folder = wide
    PLAIN.merge(sevenths(folder), [None] * 7, tmp_path)
    assert contents(tmp_path) == contents(folder / "one")


def test_a_posting_takes_few_bytes(wide: tuple[list[str], list[str], Path]) -> None:
    _, _, folder = wide
    head = json.loads((folder / "one" / "index.json").read_text())
    size = sum(
        len(data) for name, data in contents(folder / "one").items() if name != "lengths.npy"
    )
    assert size / head["postings"] < 3.5


def test_counts_beyond_254(tmp_path: Path) -> None:
    texts = ["aa bb " * n + "cc " * 3 for n in (1, 253, 254, 255, 256, 300, 70_000)]
    built(texts, tmp_path / "whole")
    found = hits(PLAIN.open([tmp_path / "whole"]).search(["aa", "aa cc"], 10))
    for query, got in zip(["aa", "aa cc"], found, strict=True):
        same(got, oracle(texts, query, 0.9, 0.4), 10)
    built(texts[:4], tmp_path / "a")
    built(texts[4:], tmp_path / "b")
    merged = tmp_path / "merged"
    merged.mkdir()
    PLAIN.merge([tmp_path / "a", tmp_path / "b"], [None, None], merged)
    assert contents(merged) == contents(tmp_path / "whole")


def test_queries_without_hits_and_repeated_terms(tmp_path: Path) -> None:
    index = PLAIN.open([built(["aa bb", "bb cc", ""], tmp_path / "i")])
    assert index.rows == 3 and index.tokens("Bb, cc d") == ["bb", "cc"]
    assert hits(index.search([], 5)) == []
    assert hits(index.search(["", "zz", "d"], 5)) == [[], [], []]
    once, twice, unknown = hits(index.search(["aa", "aa aa", "aa zz"], 5))
    assert unknown == once and twice == [(0, 2 * once[0][1])]


def test_nothing_to_index(tmp_path: Path) -> None:
    for i, texts in enumerate([[], ["", "a ."]]):
        index = PLAIN.open([built(texts, tmp_path / str(i))])
        assert index.rows == len(texts) and hits(index.search(["aa"], 3)) == [[]]
    assert hits(PLAIN.open([]).search(["aa"], 3)) == [[]]


def test_title_and_text_are_one_text(tmp_path: Path) -> None:
    Lexical().build(table(["of runners", "b"], ["The Title", ""]), tmp_path)
    index = Lexical().open([tmp_path])
    assert [len(found) for found in hits(index.search(["title", "running", "the"], 5))] == [1, 0, 0]
    assert index.search(["runner"], 5)[1].tolist() == [0]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.lists(WORD, max_size=6).map(" ".join)] * 2), min_size=1, max_size=12),
    st.integers(0, 4),
    st.lists(WORD, min_size=1, max_size=4).map(" ".join),
)
def test_a_title_that_counts_n_times_is_a_title_written_n_times(
    rows: list[tuple[str, str]], weight: int, query: str
) -> None:
    kind = Lexical(stemmer="none", stopwords="none", title_weight=weight)
    titles, texts = zip(*rows, strict=True)
    written = [" ".join([title] * weight + [text]) for title, text in rows]
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / part for part in ("whole", "a", "b", "merged")]
        for folder, part in zip(folders, (slice(None), slice(0, 2), slice(2, None)), strict=False):
            folder.mkdir()
            kind.build(table(texts[part], titles[part]), folder)
        same(
            hits(kind.open(folders[:1]).search([query], 5))[0], oracle(written, query, 0.9, 0.4), 5
        )
        folders[3].mkdir()
        kind.merge(folders[1:3], [None, None], folders[3])
        assert contents(folders[3]) == contents(folders[0])
        plain = contents(built(written, Path(name) / "written"))
        arrays = {name for name in plain if name.endswith(".npy")}
        assert all(plain[file] == contents(folders[0])[file] for file in arrays)


def test_weight_1_changes_no_key_and_no_byte_and_others_are_told_apart(tmp_path: Path) -> None:
    # Indexes that were built before there were weights have settings without one.
    assert Lexical().model_dump(mode="json") == {"stemmer": "porter", "stopwords": "english"}
    assert Lexical(title_weight=1) == Lexical.model_validate(Lexical().model_dump())
    heavy = Lexical(title_weight=3)
    assert Lexical.model_validate(heavy.model_dump()) == heavy != Lexical()
    built(["aa bb"], tmp_path / "plain", Lexical())
    assert b"title_weight" not in contents(tmp_path / "plain")["index.json"]
    with pytest.raises(InvalidInput, match=r"settings is .* 'title_weight': 3"):
        heavy.open([tmp_path / "plain"])
    for wrong in (-1, 101, 1.5):
        with pytest.raises(ValidationError):
            Lexical.model_validate({"title_weight": wrong})


def test_real_text_scores_as_bm25s(tmp_path: Path) -> None:
    if not (EXAMPLE / "corpus.jsonl.gz").exists():
        pytest.skip("the example corpus is not here")
    with gzip.open(EXAMPLE / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    lines = (EXAMPLE / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    queries = [json.loads(line)["text"] for line in lines[:300]]
    Lexical().build(
        table([r["text"] for r in rows], [r.get("title") or "" for r in rows]), tmp_path
    )
    found = hits(Lexical().open([tmp_path]).search(queries, 20))

    options: dict[str, Any] = {
        "stopwords": "en", "stemmer": Stemmer.Stemmer("porter"), "show_progress": False,
    }  # fmt: skip
    texts = [f"{r['title']} {r['text']}" if r.get("title") else r["text"] for r in rows]
    peer = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    peer.index(bm25s.tokenize(texts, **options), show_progress=False)
    asked = bm25s.tokenize(queries, return_ids=False, **options)
    for tokens, got in zip(asked, found, strict=True):
        scores = peer.get_scores(tokens)
        same(got, sorted(((i, s) for i, s in enumerate(scores) if s > 0),
                         key=lambda hit: (-hit[1], hit[0])), 20)  # fmt: skip


def test_the_kind_fulfils_the_contract() -> None:
    assert isinstance(Lexical(), IndexKind)
    with pytest.raises(ValidationError, match="no stemmer is called 'potter'"):
        Lexical(stemmer="potter")
    with pytest.raises(ValidationError):
        Lexical(stopword="none")  # type: ignore[call-arg]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return built(["aa bb", "bb cc"], tmp_path / "small")


def opened(folder: Path) -> LexicalIndex:
    return PLAIN.open([folder])


@pytest.mark.parametrize("name", ["rows.npy", "terms.npy", "index.json"])
def test_a_missing_file_is_named(small: Path, name: str) -> None:
    (small / name).unlink()
    with pytest.raises(NotFound, match=f"{name} is missing.*rag verify"):
        opened(small)


@pytest.mark.parametrize("name", ["rows.npy", "lengths.npy", "index.json"])
@pytest.mark.parametrize("left", [0, 50, -1])
def test_a_file_cut_short_is_named(small: Path, name: str, left: int) -> None:
    data = (small / name).read_bytes()
    (small / name).write_bytes(data[:left] if name != "index.json" else data[: len(data) // 2])
    with pytest.raises(Damaged, match=f"{name} is damaged.*rag index"):
        opened(small)


def test_files_that_do_not_fit_together_are_refused(small: Path) -> None:
    np.save(small / "counts.npy", np.ones(3, np.uint8))
    with pytest.raises(Damaged, match=r"counts.npy.*do not fit together"):
        opened(small)
    np.save(small / "counts.npy", np.ones(4, np.int64))
    with pytest.raises(Damaged, match=r"counts.npy.*int64"):
        opened(small)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("format", 99, "format is 99, expected 2.*rag index"),
        ("samples", {}, "PyStemmer.*rag index"),
        ("unicode", "3.0.0", "unicode is '3.0.0'"),
        ("settings", {"stemmer": "porter", "stopwords": "none"}, "settings"),
        ("rows", 7, "counts 7 rows"),
    ],
)
def test_another_format_or_stemmer_is_refused(
    small: Path, key: str, value: object, says: str
) -> None:
    head = json.loads((small / "index.json").read_text())
    (small / "index.json").write_text(json.dumps({**head, key: value}))
    with pytest.raises(RagError, match=says):
        opened(small)


def test_arguments_are_checked(small: Path, tmp_path: Path) -> None:
    index = opened(small)
    for wrong in ({"k": 0}, {"k1": -1.0}, {"b": 1.5}, {"keep": np.ones(3, bool)}):
        with pytest.raises(InvalidInput):
            index.search(["aa"], **{"k": 5, **wrong})  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="2 rows"):
        PLAIN.merge([small], [np.ones(3, bool)], tmp_path)
    with pytest.raises(InvalidInput, match="1 parts"):
        PLAIN.merge([small], [], tmp_path)
