"""Every answer of an FM-index equals what a slow reading of the documents says."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.errors import InvalidInput
from rag.indexers.fm_index import FMIndex, FMIndexes

Documents = list[list[int]]


def places(documents: Documents, ngram: list[int], anchored: bool = False) -> list[tuple[int, int]]:
    """(document, offset of the last token) of each occurrence, in order."""
    size = len(ngram)
    return [
        (number, at + size - 1)
        for number, tokens in enumerate(documents)
        for at in range(1 if anchored else len(tokens) - size + 1)
        if tokens[at : at + size] == ngram and at + size <= len(tokens)
    ]


def following(documents: Documents, ngram: list[int], anchored: bool = False) -> dict[int, int]:
    """The tokens after an n-gram and how often each stands there."""
    found = Counter(
        documents[number][at + 1]
        for number, at in places(documents, ngram, anchored)
        if at + 1 < len(documents[number])
    )
    if not ngram and not anchored:  # before each token is the empty n-gram
        found = Counter(token for tokens in documents for token in tokens)
    return dict(sorted(found.items()))


def best(allowed: dict[int, int], scores: np.ndarray, k: int) -> list[int]:
    ranked = sorted((-scores[token], token) for token in allowed if scores[token] > -np.inf)
    return [token for _, token in ranked[:k]]


def split(documents: Documents, parts: int) -> list[Documents]:
    edges = [len(documents) * i // parts for i in range(parts + 1)]
    return [documents[low:high] for low, high in pairwise(edges)]


def check(documents: Documents, folder: Path, parts: int = 1, locate: str = "full") -> None:
    """Compare all n-grams of up to three tokens, and some that are absent, with the documents."""
    rng = np.random.default_rng(len(documents))
    pieces = [
        FMIndex.build(piece, folder / str(number), locate=locate)  # type: ignore[arg-type]
        for number, piece in enumerate(split(documents, parts))
    ]
    index = FMIndexes(pieces)
    ids = sorted({token for tokens in documents for token in tokens})
    assert len(index) == sum(map(len, documents)) + len(documents)
    assert index.tokens == sum(map(len, documents))
    assert index.limit == (ids[-1] + 1 if ids else 0)
    assert index.first.tolist() == [0, *np.cumsum([len(p) for p in split(documents, parts)])]

    grams = {
        tuple(tokens[at : at + size])
        for tokens in documents
        for size in (1, 2, 3)
        for at in range(len(tokens) - size + 1)
    }
    ngrams = [list(gram) for gram in sorted(grams)[:60]]
    ngrams += [[ids[0], *gram] for gram in ngrams[:10]] if ids else []
    ngrams += [[max(index.limit, 1)], [3, max(index.limit, 1)], [-1], [0, 0, 0, 0, 0]]
    ranges = index.find(ngrams)
    assert index.count(ngrams).tolist() == [len(places(documents, gram)) for gram in ngrams]
    assert index.widths(ranges).tolist() == index.count(ngrams).tolist()

    offsets, numbers, positions = index.locate(ranges)
    for i, gram in enumerate(ngrams):
        part = slice(offsets[i], offsets[i + 1])
        found = list(zip(numbers[part].tolist(), positions[part].tolist(), strict=True))
        assert found == places(documents, gram), gram

    queries: list[tuple[list[int], bool, np.ndarray]] = [
        ([], False, index.whole()),
        ([], True, index.starts()),
    ]
    queries += [(gram, False, rows) for gram, rows in zip(ngrams, ranges, strict=True)]
    for token in ids[:5]:
        queries.append(([token], True, index.extend(index.starts()[None], [token])[0]))
    for gram, anchored, rows in queries:
        expected = following(documents, gram, anchored)
        tokens, counts, children = index.next_tokens(rows)
        assert tokens.tolist() == list(expected)
        assert counts.tolist() == list(expected.values())
        assert index.widths(children).tolist() == counts.tolist()
        if len(tokens):
            again = index.extend(np.repeat(rows[None], len(tokens), axis=0), tokens)
            assert (index.widths(again) == counts).all()
            whole = children[..., 1] > children[..., 0]
            assert (again[whole] == children[whole]).all()

    rows = np.stack([rows for _, _, rows in queries])
    vocabulary = min(index.limit, 100_000)
    if vocabulary < index.limit:
        return
    scores = rng.integers(-4, 1, (len(rows), vocabulary + 3)).astype(np.float32)  # many ties
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    for k in (0, 1, 3, 1000):
        top = index.top_k(rows, scores, k)
        for i, (gram, anchored, _) in enumerate(queries):
            expected_tokens = best(following(documents, gram, anchored), scores[i], k)
            size = len(expected_tokens)
            assert top.tokens[i, :size].tolist() == expected_tokens
            assert (top.tokens[i, size:] == -1).all()
            assert (top.scores[i, :size] == scores[i, expected_tokens]).all()
            assert (top.scores[i, size:] == -np.inf).all()
            assert not top.ranges[i, size:].any()
            if size:
                grown = index.extend(np.repeat(rows[i][None], size, axis=0), expected_tokens)
                assert (top.ranges[i, :size] == grown).all()

    for number in range(len(documents)):
        assert index.document(number).tolist() == documents[number]
    order = rng.permutation(len(documents))
    ends, joined = index.documents(order)
    assert joined.tolist() == [token for number in order for token in documents[number]]
    assert np.diff(ends).tolist() == [len(documents[number]) for number in order]


texts = st.integers(1, 40).flatmap(
    lambda size: st.lists(st.lists(st.integers(0, size), max_size=12), max_size=12)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts, st.sampled_from(["full", "sampled"]), st.sampled_from([1, 1, 2, 7]))
def test_answers_equal_those_of_the_documents(
    documents: Documents, locate: str, parts: int
) -> None:
    with TemporaryDirectory() as folder:
        check(documents, Path(folder), parts, locate)


@pytest.mark.parametrize(
    "documents",
    [
        [],
        [[]],
        [[], [], []],
        [[5]],
        [[0]],
        [[3] * 500],
        [[3] * 9] * 40,
        [list(range(900))],
        [[], [2**31 - 1, 5, 2**31 - 1], []],
        [[7, 8] * 100, [8, 7] * 100],
    ],
    ids=[
        "no documents", "one empty", "all empty", "one token", "id 0", "one symbol",
        "one symbol in many", "all distinct", "largest id", "alternating",
    ],
)  # fmt: skip
@pytest.mark.parametrize("locate", ["full", "sampled"])
def test_extreme_documents(documents: Documents, locate: str, tmp_path: Path) -> None:
    check(documents, tmp_path, 1, locate)


def test_an_id_that_log_probs_do_not_have_is_an_error(tmp_path: Path) -> None:
    index = FMIndex.build([[3, 9]], tmp_path)
    with pytest.raises(InvalidInput, match="log_probs ends at token 8, and the index holds"):
        index.top_k([index.find([])], np.zeros((1, 9), np.float32), 1)
