"""Postings are stored packed: what is packed comes back, and long runs are searched like others."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rag.errors import Damaged
from rag.indexers import Lexical, _kernels_pack, dictionary, postings
from rag.indexers.tokenizer import Terms, frozen

PLAIN = Lexical(stemmer="none", stopwords="none")


def written(texts: list[str], folder: Path) -> Path:
    """The index of ``texts`` in ``folder``."""
    folder.mkdir()
    types = pa.schema([("title", pa.large_string()), ("text", pa.large_string())])
    PLAIN.build(pa.table([[""] * len(texts), texts], schema=types), folder)
    return folder


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 4096, 65_535, 65_536])
def test_rows_come_back(size: int) -> None:
    dice = np.random.default_rng(size)
    runs = [
        np.sort(dice.choice(65_536, size, replace=False)),
        np.arange(65_536 - size, 65_536),
        np.arange(size),
        np.array([0, 65_535]),
    ]
    starts = np.concatenate(([0], np.cumsum([len(run) for run in runs]))).astype(np.uint32)
    rows = np.concatenate(runs).astype(np.uint16)
    packed = _kernels_pack.pack_rows(starts, rows)
    assert len(packed[1]) == (3 if size > 1024 else 0)
    back, good = _kernels_pack.unpack_rows(starts, *packed)
    assert good
    np.testing.assert_array_equal(back, rows)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 160])
def test_terms_come_back(count: int) -> None:
    dice = np.random.default_rng(count)
    sizes = [1, 2, 14, 15, 16, 30, 142, 143, 144, 20_000]
    names = set[bytes]()
    while len(names) < count:
        names.add(bytes(dice.integers(97, 99, dice.choice(sizes), np.uint8)))
    held = dice.choice([1, 2, 127, 128, 65_536], count)
    runs = np.concatenate(([0], np.cumsum(held))).astype(np.uint32)
    text = np.frombuffer(b"".join(sorted(names)), np.uint8)
    marks = np.concatenate(([0], np.cumsum([len(name) for name in sorted(names)]))).astype(np.int64)
    packed = _kernels_pack.pack_terms(text, marks, runs)
    back = _kernels_pack.unpack_terms(*packed)
    assert back[3]
    for found, given in zip(back, (text, marks, runs), strict=False):
        np.testing.assert_array_equal(found, given)


def test_counts_come_back() -> None:
    for size in range(5):
        counts = (np.arange(size) * 7 % 16).astype(np.uint8)
        packed = _kernels_pack.pack_counts(counts)
        assert len(packed) == (size + 1) // 2
        np.testing.assert_array_equal(_kernels_pack.unpack_counts(packed, size), counts)


def test_look_ups_agree_with_the_kernel(tmp_path: Path) -> None:
    names = sorted({f"{begin}{n}" for begin in ("a", "same" * 9, "b" * 300) for n in range(70)})
    part = postings.mapped(written([" ".join(names)], tmp_path / "a"))
    assert dictionary.size(part) == len(names)
    assert dictionary.terms(part, range(3, 99)) == [name.encode() for name in names[3:99]]
    assert dictionary.terms(part, range(0)) == []
    assert [dictionary.find(part, name.encode())[0] for name in names] == list(range(len(names)))
    for absent in (b"", b"a", b"a70", b"c", b"same"):
        assert dictionary.find(part, absent) == (-1, -1)
    for prefix in (b"", b"a1", b"same", b"b" * 299, b"zz", b"0"):
        expected = [n for n, name in enumerate(names) if name.encode().startswith(prefix)]
        assert list(dictionary.beginning(part, prefix)) == expected


@pytest.mark.parametrize("rows", [1100, 3000, 70_000])
def test_long_runs_are_searched_exactly(rows: int, tmp_path: Path) -> None:
    """Every way through the kernels gives the scores that ``explain`` finds one by one."""
    dice = np.random.default_rng(rows)
    words = np.array(["all", "half", "tenth", "some", "rare"])
    chances = np.array([1.0, 0.5, 0.1, 600 / rows, 5 / rows])
    held = dice.random((rows, len(words))) < chances
    times = dice.integers(1, 20, held.shape) * held
    texts = [" ".join(np.repeat(words, row)) for row in times]
    index = PLAIN.open([written(texts, tmp_path / "a")])
    assert len(index._parts[0].long_runs)
    lengths = times.sum(1)
    df = held.sum(0)
    idf = np.log1p((rows - df + 0.5) / (df + 0.5))
    parts = times / (times + 0.9 * (0.6 + 0.4 * (lengths / lengths.mean())[:, None])) * idf
    for words_asked in ([0, 1], [1, 2], [2, 3, 4], [0, 4], [1, 2, 3, 4], [3], [0]):
        scores = parts[:, words_asked].sum(1)
        for share in (None, 0.5, 0.05, 0.004):
            keep = None if share is None else frozen(dice.random(rows) < share)
            for k in (1, 30, 1500):
                query = " ".join(words[words_asked])
                _, found, got = index.search([query], k, keep=keep)
                shown = np.where(held[:, words_asked].any(1), scores, -1)
                shown = shown if keep is None else np.where(keep, shown, -1)
                best = np.sort(shown[shown >= 0])[::-1][:k]
                np.testing.assert_allclose(got, best, rtol=2e-6)
                np.testing.assert_allclose(scores[found], got, rtol=2e-6)
                assert len(set(found.tolist())) == len(found)
                assert keep is None or keep[found].all()


def test_merging_parts_with_long_runs_is_building_the_whole(tmp_path: Path) -> None:
    texts = ["many " * (1 + n % 20) + f"w{n % 40}" for n in range(2400)]
    whole = written(texts, tmp_path / "whole")
    cuts = [0, 400, 1000, 2400]
    parts = [written(texts[first:last], tmp_path / f"{first}") for first, last in pairwise(cuts)]
    (tmp_path / "merged").mkdir()
    PLAIN.merge(parts, [None] * len(parts), tmp_path / "merged")
    for file in whole.iterdir():
        assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("name", ["terms", "group_runs", "long_highs", "run_starts", "long_starts"])
def test_a_damaged_part_is_not_merged(name: str, tmp_path: Path) -> None:
    part = written([f"many w{n % 50}" for n in range(1500)], tmp_path / "part")
    array = np.load(part / f"{name}.npy")
    array[: len(array) - 1] = 200
    np.save(part / f"{name}.npy", array)
    (tmp_path / "out").mkdir()
    with pytest.raises(Damaged, match=f"part .*{'rows' if 'long' in name else name}"):
        PLAIN.merge([part], [None], tmp_path / "out")


def test_damaged_long_runs_are_named_by_search(tmp_path: Path) -> None:
    folder = written([f"many w{n % 50}" for n in range(1500)], tmp_path / "part")
    for name, value in (("long_highs", 60_000), ("long_runs", 7), ("long_lows", 255)):
        good = np.load(folder / f"{name}.npy")
        np.save(folder / f"{name}.npy", np.full_like(good, value))
        index = PLAIN.open([folder])
        with pytest.raises(Damaged, match=f"{name}.npy"):
            index.search(["many"], 5)
        if name != "long_runs":
            with pytest.raises(Damaged, match=f"{name}.npy"):
                index.rows_with(["many"])
        np.save(folder / f"{name}.npy", good)


def test_terms_alone_make_postings() -> None:
    part = postings.of_terms(Terms.of([["b", "a", "b"], ["b"]]))
    assert part.size == 3
    assert dictionary.count(part, dictionary.find(part, b"b"), 0) == 2
