"""How a title and a text stand in the tokens of a passage."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rag.errors import InvalidInput
from rag.indexers.layout import Layout, family_of


def test_families_by_config() -> None:
    assert family_of("bart", two_sided=True) == "bart"
    assert family_of("mt5", two_sided=True) == family_of("pegasus", two_sided=True) == "t5"
    assert family_of("llama", two_sided=False) == family_of("bart", two_sided=False) == "causal"


def test_titles_and_texts_are_laid_out_as_words_of_their_own() -> None:
    words: dict[str, int] = {}

    def byte_pairs(texts: list[str]) -> list[list[int]]:  # a space is part of the word behind it
        cut = [re.findall(" ?[^ ]+", text.replace("</s>", "< /s>")) for text in texts]
        return [[words.setdefault(word, len(words)) for word in each] for each in cut]

    layout = Layout.of("bart", byte_pairs)
    assert layout == Layout("bart", " ", words[" @@"])
    (one, two) = layout.rows(byte_pairs, ["a", ""], ["b", ""])
    assert (
        one.tolist() == [words[" a"], words[" @@"], words[" b"]]
        and two.tolist() == one[1:2].tolist()
    )
    assert one.dtype == np.int32

    def pieces(texts: list[str]) -> list[list[int]]:  # each word's beginning is marked
        ids = {"the": 5, "year": 6, "</s>": 1, "\n": 13}
        return [
            [ids[w] for w in text.replace("\n", " \n ").split(" ") if w]
            if text != "\n"
            else [3, 13]
            for text in texts
        ]

    assert Layout.of("t5", pieces) == Layout("t5", "", 1)
    assert Layout.of("causal", pieces) == Layout("causal", "", 13)
    with pytest.raises(InvalidInput, match="no single token for '</s>', which ends a title"):
        Layout.of("t5", byte_pairs)
    with pytest.raises(InvalidInput, match="family 'rnn' of models: expected bart, t5, causal"):
        Layout.of("rnn", pieces)
