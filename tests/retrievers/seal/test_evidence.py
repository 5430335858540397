"""The evidence of passages in words, and which characters its n-grams are."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from rag.indexers.token_ids import TokenIds
from rag.retrievers.seal.evidence import evidence, spans
from rag.retrievers.seal.keys import BODY, SPAN, TITLE, Keys
from rag.retrievers.seal.score import Scored
from tests.retrievers.seal.tiny_seal import VOCABULARY, tokenizer

IDS = {word: number for number, word in enumerate(VOCABULARY)}


def test_every_kind_in_words_and_in_characters() -> None:
    words = tokenizer()
    end, w1, w2, w3 = (IDS[word] for word in ("\n", "w1", "w2", "w3"))
    ngrams = [[w1, end], [w1, end, w2], [w2, w3], [w3]]
    keys = Keys.of(ngrams, [-1.0] * 4, kinds=[TITLE, BODY, SPAN, BODY])
    scored = Scored(
        np.array([7, 3]),
        np.array([9.0, 1.0], np.float32),
        np.array([0, 4, 5]),
        np.array([0, 1, 2, -1, 3], np.int32),
        np.array([-1, -1, -1, w3, -1], np.int32),
        np.array([4.0, 3.0, 1.5, 0.5, 1.0], np.float32),
        np.array([1, 2, 4, 4, 0], np.int32),
    )
    first, second = evidence(keys, scored, lambda many: [words.decode(ids) for ids in many])
    assert [(e["ngram"], e["kind"], e["tokens"], e["weight"]) for e in first] == [
        ("w1 \n", "title", 2, 4.0),
        ("w1 \n w2", "text", 3, 3.0),
        ("w2 w3", "question", 2, 1.5),
        ("w3", "token", 1, 0.5),
    ]
    assert [e["kind"] for e in second] == ["text"]
    places = spans(first, "w1", "w2  w2 w3", TokenIds("tiny", words, "causal"))
    assert places == [
        {"title": (0, 2)},
        {"title": (0, 2), "text": (0, 2)},  # from the one into the other
        {"text": (4, 9)},
        {"text": (7, 9)},
    ]
