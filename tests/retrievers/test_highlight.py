"""Highlighted words against the terms of the text."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from rag.indexers.tokenizer import Tokenizer
from rag.retrievers.highlight import spans

PORTER = Tokenizer("porter", "english")


def test_other_forms_of_a_word_are_marked_and_stop_words_are_not() -> None:
    text = "The İ runner RUNS, running; the rúns 😀 run!"
    terms = PORTER.tokens(["running the"])[0]
    assert [text[a:b] for a, b in spans(terms, text, PORTER)] == ["RUNS", "running", "run"]


@settings(max_examples=100, deadline=None)
@given(
    st.text(st.sampled_from("aB runsİΣé😀-."), max_size=30),
    st.text(st.sampled_from("aB runs"), max_size=8),
)
def test_as_many_words_are_marked_as_terms_match(text: str, query: str) -> None:
    wanted = set(PORTER.tokens([query])[0])
    found = spans(wanted, text, PORTER)
    assert len(found) == sum(term in wanted for term in PORTER.tokens([text])[0])
    assert all(left[1] <= right[0] for left, right in pairwise(found))
    assert all(0 <= start < end <= len(text) for start, end in found)
