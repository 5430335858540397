"""Terms are found near the fences of a dictionary as they are found without any."""

from __future__ import annotations

import numpy as np
import pytest

from rag.indexers import _kernels_terms, postings
from rag.indexers.tokenizer import Terms, Tokenizer, frozen, packed

NAMES = sorted({f"{begin}{i}" for begin in ("", "a", "same begin of all ", "Ж") for i in range(40)})
ABSENT = ["", "!", "same beg", "same begin of all", "same begin of all 400", "Ж", "東京"]


def found(part: postings.Postings, step: int, *, fenced: bool = True) -> list[int]:
    """The first runs of ``NAMES`` and ``ABSENT``: their numbers, as each has one run."""
    marks = frozen(_kernels_terms.fences(part.group_texts, part.terms, step))
    assert len(marks) == -(-len(part.group_runs[1:]) // step)
    offsets, text = packed([name.encode() for name in NAMES + ABSENT])
    numbers, held = np.empty((len(offsets) - 1, 2), np.int64), np.zeros(len(offsets) - 1, np.int64)
    _kernels_terms.lookup(part, marks if fenced else marks[:0], step, text, offsets, numbers, held)
    return [int(number) for number in numbers[:, 0]]


@pytest.mark.parametrize("step", [1, 2, 7, 64, 10_000])
def test_every_term_is_found_and_no_other(step: int) -> None:
    part = postings.of_terms(Terms.of([NAMES]))
    for array in part:
        frozen(array)
    assert found(part, step) == list(range(len(NAMES))) + [-1] * len(ABSENT)
    assert found(part, step) == found(part, step, fenced=False)


def test_a_damaged_dictionary_has_no_fences() -> None:
    part = postings.of_terms(Terms.of([NAMES]))
    offsets = part.group_texts.copy()
    offsets[4] = 2**31
    assert len(_kernels_terms.fences(frozen(offsets), frozen(part.terms), 4)) == 0


def test_remembered_words_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"running the foxes {i} were universities{i % 7}" for i in range(50)]
    fresh = [Tokenizer("porter", "english").tokens([text])[0] for text in texts]
    monkeypatch.setattr("rag.indexers.tokenizer.REMEMBERED", 20)
    one = Tokenizer("porter", "english")
    assert [one.tokens([text])[0] for text in texts] == fresh
    assert len(one._known) < 30
    assert one.with_stop_words().tokens(["the running"]) == [["the", "run"]]
    assert one.tokens(["the running"]) == [["run"]]
