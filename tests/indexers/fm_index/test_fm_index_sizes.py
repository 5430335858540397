"""Alphabets beside powers of two, ids of more than two bytes, and ranges wide enough to search."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.indexers.fm_index import FMIndex, FMIndexes, build
from tests.indexers.fm_index.test_fm_index import check

I64 = NDArray[np.int64]


@pytest.mark.parametrize("ids", [1, 2, 3, 4, 7, 8, 9, 254, 255, 256, 257])
def test_alphabets_beside_powers_of_two(ids: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(ids)
    tokens = np.concatenate((rng.permutation(ids), rng.integers(0, ids, 200))) * 3
    check([part.tolist() for part in np.array_split(tokens, 5)], tmp_path)


def test_codes_are_prefix_free_in_the_order_of_the_symbols() -> None:
    rng = np.random.default_rng(0)
    for symbols in (1, 2, 255, 256, 257, 300, 5000, 70_000):
        counts = np.maximum(1, (1e6 / np.arange(1, symbols + 1)).astype(np.int64))
        order = np.concatenate(([0], 1 + np.argsort(-counts[1:], kind="stable"))).astype(np.int32)
        codes, widths = build.code(order, counts)
        some = order if symbols <= 300 else order[np.sort(rng.choice(symbols, 300, replace=False))]
        texts = [int(codes[s]).to_bytes(int(widths[s]), "big") for s in some]
        assert texts == sorted(texts)
        for a, b in pairwise(texts):
            assert not b.startswith(a)
        assert (counts * widths).sum() <= 2 * counts.sum() + symbols


def next_after(documents: list[I64], ngram: list[int]) -> dict[int, int]:
    found: list[I64] = []
    for tokens in documents:
        hit = np.ones(max(0, len(tokens) - len(ngram)), bool)
        for i, token in enumerate(ngram):
            hit &= tokens[i : i + len(hit)] == token
        found.append(tokens[len(ngram) :][hit])
    tokens, counts = np.unique(np.concatenate(found), return_counts=True)
    return dict(zip(tokens.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", ["random", "ties", "equal", "few", "nan"])
def test_top_k_of_wide_ranges(kind: str, parts: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ids = np.sort(rng.choice(3000, 1500, replace=False))
    tokens = ids[np.minimum(rng.zipf(1.1, 90_000), 1500) - 1]
    documents = np.array_split(tokens, 40)
    edges = [40 * i // parts for i in range(parts + 1)]
    index = FMIndexes(
        [FMIndex.build(documents[edges[i] : edges[i + 1]], tmp_path / str(i)) for i in range(parts)]
    )
    first, second = ids[:2].tolist()
    ngrams: list[list[int]] = [[], [first], [second], [first, first], [first, second]]
    scores: Any = {
        "random": rng.standard_normal((5, 3000)),
        "ties": -rng.integers(0, 4, (5, 3000)),
        "equal": np.zeros((5, 3000)),
        "few": np.where(rng.random((5, 3000)) < 0.004, -1.0, -np.inf),
        "nan": np.where(rng.random((5, 3000)) < 0.5, np.nan, rng.standard_normal((5, 3000))),
    }[kind]
    scores = scores.astype(np.float32)
    if kind == "ties":
        scores[:, ::2] *= -0.0  # -0.0 and 0.0 are equal
    ranges = index.find(ngrams)
    assert index.widths(ranges).max() > 50_000
    for k in (1, 30, 2000):
        top = index.top_k(ranges, scores, k)
        for i, ngram in enumerate(ngrams):
            allowed = next_after(list(documents), ngram)
            if not ngram:
                allowed = dict.fromkeys(np.unique(tokens).tolist(), 0)
            expected = sorted((-scores[i, t], t) for t in allowed if scores[i, t] > -np.inf)[:k]
            size = len(expected)
            assert top.tokens[i, :size].tolist() == [token for _, token in expected]
            assert (top.scores[i, :size] == scores[i, top.tokens[i, :size]]).all()
            assert (top.tokens[i, size:] == -1).all()
            grown = index.extend(np.repeat(ranges[i][None], size, axis=0), top.tokens[i, :size])
            assert (index.widths(grown) == index.widths(top.ranges[i, :size])).all()


def test_more_than_65_536_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    ids = np.concatenate((np.arange(65_530) * 2, [2**20, 2**31 - 2, 2**31 - 1]))
    tokens = np.concatenate((rng.permutation(ids), rng.choice(ids, 5000), rng.permutation(ids)))
    documents = np.array_split(tokens, 70)
    index = FMIndex.build(documents, tmp_path)
    assert index.limit == 2**31
    seen, counts = np.unique(tokens, return_counts=True)
    root = index.next_tokens(index.find([]))
    assert (root.tokens == seen).all()
    assert (root.counts == counts).all()
    places = rng.integers(0, len(tokens) - 2, 300)
    for document in (0, 35, 69):
        assert (index.document(document) == documents[document]).all()
    lengths = np.cumsum([0, *map(len, documents)])
    for at in places[:60].tolist():
        document = int(np.searchsorted(lengths, at, "right")) - 1
        ngram = tokens[at : min(at + 3, lengths[document + 1])]
        found = list(zip(*(part.tolist() for part in index.locate(
            np.arange(*index.find(ngram)))), strict=True))  # fmt: skip
        assert (document, at + len(ngram) - 1 - lengths[document]) in found
        expected = next_after(documents, ngram[:1].tolist())
        after = index.next_tokens(index.find(ngram[:1]))
        assert dict(zip(after.tokens.tolist(), after.counts.tolist(), strict=True)) == expected


def test_long_documents_of_one_symbol_count_and_locate(tmp_path: Path) -> None:
    index = FMIndex.build([[6] * 20_000, [6] * 10, []], tmp_path)
    assert index.count([[6] * 5, [6] * 11, [6] * 20_000, [6] * 20_001]).tolist() == [
        19_996 + 6,
        19_990,
        1,
        0,
    ]
    documents, offsets = index.locate(np.arange(*index.find([6] * 9)))
    assert sorted(zip(documents.tolist(), offsets.tolist(), strict=True)) == [
        *((0, at) for at in range(8, 20_000)),
        (1, 8),
        (1, 9),
    ]
