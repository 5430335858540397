"""What the model reads, and what is left out of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InvalidInput
from rag.readers.passages import Passage
from rag.readers.prompt import prompt


def words(text: str) -> int:
    return len(text.split())


def passage(rank: int, length: int, score: float) -> Passage:
    text = " ".join([f"w{rank}"] * length)
    return Passage(rank, f"p{rank}", f"T{rank}", text, 0, len(text), text, score)


def test_passages_are_numbered_in_reading_order() -> None:
    made = prompt(
        "Who?", [passage(1, 2, 3), passage(4, 1, 9)], instruction="Say.", budget=99, count=words
    )
    assert made.text == "Say.\n\n[1] T1\nw1 w1\n\n[2] T4\nw4\n\nQuestion: Who?"
    assert made.messages == [{"role": "user", "content": made.text}]
    assert made.left_out == 0


def test_a_passage_without_a_title_has_no_space_behind_its_number() -> None:
    untitled = Passage(1, "p1", "", "text", 0, 4, "text", 1.0)
    made = prompt("Q", [untitled], instruction="", budget=99, count=words)
    assert made.text == "[1]\ntext\n\nQuestion: Q"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=6),
    st.integers(2, 60),
)
def test_the_lowest_scores_are_left_out_whole(sizes: list[tuple[int, int]], budget: int) -> None:
    passages = [passage(rank, *size) for rank, size in enumerate(sizes, 1)]
    order = sorted(range(len(sizes)), key=lambda at: (-sizes[at][1], at))
    fits = max(
        n for n in range(len(sizes) + 1) if 2 + sum(2 + sizes[at][0] for at in order[:n]) <= budget
    )
    if not fits:
        with pytest.raises(InvalidInput, match="the best passage"):
            prompt("Q", passages, instruction="", budget=budget, count=words)
        return
    made = prompt("Q", passages, instruction="", budget=budget, count=words)
    assert [p.rank for p in made.given] == sorted(at + 1 for at in order[:fits])
    assert made.left_out == len(sizes) - fits
    assert words(made.text) <= budget
    assert all(p.text in made.text for p in made.given)


def test_the_error_says_what_to_raise() -> None:
    with pytest.raises(InvalidInput) as caught:
        prompt("Q", [passage(1, 50, 1)], instruction="Do it.", budget=20, count=words)
    assert str(caught.value) == (
        "the prompt has a budget of 20 tokens, but instruction and question take 4 and the best "
        "passage ('p1') 52; raise 'budget', or split the passages shorter"
    )
