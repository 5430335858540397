"""Scores by keys against the slow, literal transcription of SEAL's formulas."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.errors import InvalidInput
from rag.indexers.fm_index import FMIndex, FMIndexes
from rag.retrievers.seal import _kernels
from rag.retrievers.seal.keys import SPAN, TITLE, Keys
from rag.retrievers.seal.score import Scored, score
from rag.retrievers.seal.weigh import Scoring, best
from tests.retrievers.seal.literal_score import START, literal_score

XQUAD = Path(__file__).parents[3] / "examples" / "xquad-en"


def indexes(documents: Sequence[Sequence[int]], segments: int) -> FMIndexes:
    """An index of the documents, cut into segments of unequal lengths."""
    cuts = np.sort(np.random.default_rng(5).integers(0, len(documents) + 1, segments - 1))
    ends = [0, *cuts.tolist(), len(documents)]
    with tempfile.TemporaryDirectory() as folder:
        return FMIndexes(
            [
                FMIndex.build(
                    [np.array(d, np.int64) for d in documents[a:b]], Path(folder) / str(i)
                )
                for i, (a, b) in enumerate(pairwise(ends))
            ]
        )


def check(
    keys: Keys,
    documents: Sequence[Sequence[int]],
    index: FMIndexes,
    how: Scoring,
    hidden: frozenset[int] = frozenset(),
) -> Scored:
    """Score, compare documents, scores and evidence with the transcription, and hand it back."""
    keep = np.array([d not in hidden for d in range(len(documents))], bool) if hidden else None
    found = score(keys, index, how, keep=keep)
    expected = literal_score(keys, documents, how, hidden)
    assert len(found.documents) == min(how.top_k, len(expected))
    by_number = {document: (total, evidence) for document, total, evidence in expected}
    totals = [total for _, total, _ in expected[: how.top_k]]
    np.testing.assert_allclose(found.scores, totals, rtol=1e-5, atol=1e-5)
    for i, document in enumerate(found.documents.tolist()):
        total, evidence = by_number[document]
        assert found.scores[i] == pytest.approx(total, rel=1e-5, abs=1e-5)
        part = slice(found.offsets[i], found.offsets[i + 1])
        ngrams = [
            (token,)
            if key < 0
            else (START, *keys.ngram(key))
            if keys.kinds[key] == TITLE
            else tuple(keys.ngram(key))
            for key, token in zip(found.keys[part], found.tokens[part].tolist(), strict=True)
        ]
        assert ngrams == [ngram for ngram, _, _ in evidence]
        assert found.positions[part].tolist() == [position for _, _, position in evidence]
        np.testing.assert_allclose(
            found.weights[part], [weight for _, weight, _ in evidence], rtol=1e-5, atol=1e-5
        )
    order = list(zip((-found.scores).tolist(), found.documents.tolist(), strict=True))
    assert order == sorted(order)
    return found


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


@pytest.fixture(scope="module")
def corpus() -> tuple[list[list[int]], list[list[int]]]:
    """Documents as "title @@ text", and questions, of xquad-en: a number for each word."""
    table: dict[str, int] = {"@@": 0}
    with gzip.open(XQUAD / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [[*words(row["title"]), "@@", *words(row["text"])] for row in rows]
    documents = [[table.setdefault(word, len(table)) for word in text] for text in texts]
    queries = (XQUAD / "queries.jsonl").read_text("utf-8").splitlines()
    questions = [
        [table[word] for word in words(json.loads(line)["text"]) if word in table]
        for line in queries
    ]
    return documents, questions


@pytest.fixture(scope="module", params=[1, 7])
def real(
    request: pytest.FixtureRequest, corpus: tuple[list[list[int]], list[list[int]]]
) -> tuple[list[list[int]], list[list[int]], FMIndexes]:
    return *corpus, indexes(corpus[0], request.param)


def keys_for(
    question: Sequence[int], documents: Sequence[Sequence[int]], limit: int, seed: int
) -> Keys:
    """As a decoder makes them: windows of text with all their beginnings, titles, spans."""
    random = np.random.default_rng(seed)
    made: dict[tuple[tuple[int, ...], bool], tuple[int, float]] = {}
    for _ in range(12):
        document = documents[int(random.integers(len(documents)))]
        at = int(random.integers(len(document)))
        steps = -random.exponential(1.2, 10)
        for n in range(1, min(10, len(document) - at) + 1):
            made.setdefault((tuple(document[at : at + n]), False), (0, float(steps[:n].sum())))
    for _ in range(4):
        document = documents[int(random.integers(len(documents)))]
        title = tuple(document[: document.index(0) + 1])
        made[title, True] = TITLE, float(-random.exponential(3))
    for i in range(len(question)):
        for n in range(1, 4):
            span = tuple(question[i : i + n])
            made.setdefault((span, False), (SPAN, float(-random.exponential(2.5) * n)))
    logits = random.normal(0, 3, limit)
    logits[list(question)] += 5
    base = random.normal(0, 3, limit)
    return Keys.of(
        [ngram for ngram, _ in made],
        [log_p for _, log_p in made.values()],
        kinds=[kind for kind, _ in made.values()],
        base=random.normal(-12, 5, len(made)),
        unigrams=logits - np.logaddexp.reduce(logits),
        base_unigrams=base - np.logaddexp.reduce(base),
    )


SETTINGS = [
    Scoring(),
    Scoring(weights="pmi"),
    Scoring(single_key=0.4, alpha=1.3, smoothing=1.0),
    Scoring(max_hits=20, fully_score=15, top_k=15),
    Scoring(unigram_top=60, beta=1.0, weights="pmi", top_k=1000),
    Scoring(beta=0.0, single_key=1.0),
]


@pytest.mark.parametrize("how", SETTINGS)
def test_scores_equal_the_transcription_on_real_text(
    real: tuple[list[list[int]], list[list[int]], FMIndexes], how: Scoring
) -> None:
    documents, questions, index = real
    limit = max(max(d) for d in documents) + 1
    for seed in range(3):
        keys = keys_for(questions[seed * 40], documents, limit, seed)
        assert len(check(keys, documents, index, how).documents)
        plain = replace(keys, unigrams=None)
        check(plain, documents, index, how, hidden=frozenset(range(0, 240, 3)))


def test_segments_give_the_same_bits(corpus: tuple[list[list[int]], list[list[int]]]) -> None:
    documents, questions = corpus
    keys = keys_for(questions[3], documents, 9000, 3)
    one = score(keys, indexes(documents, 1), Scoring(top_k=50))
    for name, array in vars(score(keys, indexes(documents, 7), Scoring(top_k=50))).items():
        assert array.tobytes() == getattr(one, name).tobytes()


NGRAMS = st.lists(st.integers(0, 5), min_size=1, max_size=5).map(tuple)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_scores_equal_the_transcription_on_any_text(data: st.DataObject) -> None:
    documents = data.draw(st.lists(st.lists(st.integers(0, 4), max_size=12), max_size=7))
    made = data.draw(
        st.lists(st.tuples(NGRAMS, st.booleans()), max_size=8, unique=True), label="keys"
    )
    n = len(made)
    few = st.sampled_from([-9.0, -2.0, -1.0, -0.25, 0.0])  # equal weights are wanted
    logs = data.draw(st.lists(few, min_size=2 * n, max_size=2 * n))
    size = data.draw(st.integers(1, 8))
    firsts = data.draw(st.lists(few.filter(bool), min_size=2 * size, max_size=2 * size))
    with_unigrams = data.draw(st.booleans())
    keys = Keys.of(
        [ngram for ngram, _ in made],
        logs[:n],
        kinds=[TITLE if title else SPAN for _, title in made],
        base=logs[n:],
        unigrams=np.array(firsts[:size]) if with_unigrams else None,
        base_unigrams=np.pad(firsts[size:], (0, 8)),
    )
    how = Scoring(
        weights=data.draw(st.sampled_from(["count", "pmi"])),
        alpha=data.draw(st.sampled_from([1.0, 2.0])),
        smoothing=data.draw(st.sampled_from([0.1, 5.0])),
        beta=data.draw(st.sampled_from([0.0, 0.8, 1.0])),
        max_hits=data.draw(st.sampled_from([1, 3, 1500])),
        fully_score=data.draw(st.sampled_from([1, 2, 1500])),
        single_key=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
        unigram_top=data.draw(st.sampled_from([1, 3, 5000])),
        top_k=data.draw(st.sampled_from([1, 1000])),
    )
    hidden = frozenset(data.draw(st.sets(st.integers(0, 6), max_size=3)))
    segments = data.draw(st.sampled_from([1, 3]))
    check(keys, documents, indexes(documents, segments), how, hidden)


DOCUMENTS = [[1, 2, 3, 4], [2, 3, 9], [], [5, 6, 7, 1, 2, 3, 3], [2, 3]]
FLAT = Scoring(smoothing=0.1)


def test_no_keys_find_nothing() -> None:
    found = score(Keys.of([], []), indexes(DOCUMENTS, 2), FLAT)
    assert len(found.documents) == len(found.scores) == len(found.keys) == 0
    assert found.offsets.tolist() == [0]
    unigrams = np.full(10, -2.0)
    assert not len(score(Keys.of([], [], unigrams=unigrams), indexes(DOCUMENTS, 2), FLAT).documents)


@pytest.mark.parametrize("ngram", [[8], [1, 1], [2**31 - 1], [3, 9, 9]])
def test_keys_that_do_not_occur_find_nothing(ngram: list[int]) -> None:
    assert not len(score(Keys.of([ngram], [-0.1]), indexes(DOCUMENTS, 2), FLAT).documents)


def test_an_empty_collection_finds_nothing() -> None:
    assert not len(score(Keys.of([[1]], [-0.1]), indexes([], 1), FLAT).documents)
    assert not len(score(Keys.of([[1]], [-0.1]), indexes([[], []], 2), FLAT).documents)


def test_fewer_documents_than_asked_for_are_all_returned() -> None:
    keys = Keys.of([[2, 3]], [-0.1])
    found = check(keys, DOCUMENTS, indexes(DOCUMENTS, 3), replace(FLAT, top_k=1000))
    assert found.documents.tolist() == [0, 1, 3, 4]  # equal scores: the lower number first
    assert not len(score(keys, indexes(DOCUMENTS, 3), replace(FLAT, top_k=0)).documents)


def test_a_title_stands_at_the_start_alone() -> None:
    keys = Keys.of([[2, 3]], [-0.1], kinds=[TITLE])
    found = check(keys, DOCUMENTS, indexes(DOCUMENTS, 2), FLAT)
    assert found.documents.tolist() == [1, 4]
    assert found.positions.tolist() == [1, 1]


def test_keys_that_occur_too_often_count_where_others_find() -> None:
    keys = Keys.of([[2, 3], [5, 6]], [-0.1, -0.1])
    found = check(keys, DOCUMENTS, indexes(DOCUMENTS, 2), replace(FLAT, max_hits=3))
    assert found.documents.tolist() == [3]
    assert sorted(found.keys.tolist()) == [0, 1]


def test_hidden_documents_count_in_the_statistics_alone() -> None:
    keys, index = Keys.of([[2, 3]], [-0.1]), indexes(DOCUMENTS, 2)
    keep = np.array([False, True, True, False, True])
    everything, shown = score(keys, index, FLAT), score(keys, index, FLAT, keep=keep)
    assert shown.documents.tolist() == [1, 4]
    assert set(shown.scores.tolist()) == set(everything.scores.tolist())
    assert not len(score(keys, index, FLAT, keep=np.zeros(5, bool)).documents)
    wrong: tuple[NDArray[Any], ...] = np.ones(4, bool), np.ones(5)
    for mask in wrong:
        with pytest.raises(InvalidInput, match="5"):
            score(keys, index, FLAT, keep=mask)


def test_evidence_adds_up_to_the_score() -> None:
    unigrams = np.log(np.full(12, 1 / 12))
    keys = Keys.of([[1, 2, 3], [2, 3]], [-1.0, -2.0], unigrams=unigrams)
    found = score(keys, indexes(DOCUMENTS, 2), replace(FLAT, max_hits=2))
    for i in range(len(found.documents)):
        part = slice(found.offsets[i], found.offsets[i + 1])
        assert found.weights[part].sum() == pytest.approx(found.scores[i], rel=1e-6)
        assert ((found.keys[part] < 0) == (found.tokens[part] >= 0)).all()


@pytest.mark.parametrize(("smaller", "log_prob"), [(2, -0.1), (300, 0.0)])
def test_a_vocabulary_unlike_the_index_s(smaller: int, log_prob: float) -> None:
    keys = Keys.of([[2, 3]], [log_prob], unigrams=np.full(smaller, log_prob))
    found = score(keys, indexes(DOCUMENTS, 2), FLAT)
    assert len(found.documents) and np.isfinite(found.scores).all()


def test_pmi_needs_the_log_probabilities_without_a_question() -> None:
    how, index = replace(FLAT, weights="pmi"), indexes(DOCUMENTS, 1)
    with pytest.raises(InvalidInput, match="no base:"):
        score(Keys.of([[2, 3]], [-1.0]), index, how)
    with pytest.raises(InvalidInput, match="base_unigrams"):
        score(Keys.of([[2, 3]], [-1.0], base=[-2.0], unigrams=np.full(9, -3.0)), index, how)


def test_more_places_than_the_first_room_holds() -> None:
    documents = [[1, 2] * 900 + [3], [4]]
    keys = Keys.of([[1], [2], [1, 2], [2, 1, 2]], [-0.3, -0.2, -0.1, -0.4])
    check(keys, documents, indexes(documents, 1), FLAT)


@given(
    documents=st.lists(st.integers(0, 5_000_000), max_size=60), repeated=st.lists(st.integers(0, 3))
)
def test_occurrences_are_sorted_by_document_stably(
    documents: list[int], repeated: list[int]
) -> None:
    array = np.array(documents + repeated, np.int64)
    assert _kernels.by_document(array).tolist() == np.argsort(array, kind="stable").tolist()


@given(scores=st.lists(st.integers(0, 4), max_size=20), k=st.integers(0, 25))
def test_the_best_are_exact_and_ties_go_to_the_first(scores: list[int], k: int) -> None:
    expected = sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:k])
    assert best(np.array(scores, np.float32), k).tolist() == expected
