"""Highlighted words against the terms of the text."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rag.indexers.tokenizer import Tokenizer
from rag.retrievers import highlight
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


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("aB runsİé東😀-.\n"), max_size=60), st.integers(5, 20))
@example("BBBBİBB", 5)
def test_blocks_mark_what_the_whole_text_marks(text: str, size: int) -> None:
    wanted = set(PORTER.tokens([text])[0])
    short = [(a, b) for a, b in spans(wanted, text, PORTER) if b - a < size]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(highlight, "BLOCK", size)
        found = spans(wanted, text, PORTER)
    assert [(a, b) for a, b in found if b - a < size] == short


def test_the_memory_for_a_long_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A passage of 100 MB took minutes, and gigabytes."""
    monkeypatch.setattr(highlight, "BLOCK", 1 << 14)
    for text, times in (("The runs of 3 races rest, é. " * 3_000, 3_000), ("x" * 100_000, 0)):
        spans(["run"], text, PORTER)
        most = []
        for repeated in (text, text * 8):
            tracemalloc.start()
            found = spans(["run"], repeated, PORTER)
            most.append(tracemalloc.get_traced_memory()[1] - 150 * len(found))
            tracemalloc.stop()
            assert len(found) == times * len(repeated) // len(text)
        assert most[1] < most[0] + 500_000
