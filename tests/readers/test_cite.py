"""Markers of answers, and the sentences that they lead to."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.batch import Citation
from rag.readers.cite import citations, support
from rag.readers.passages import Passage
from rag.readers.words import f1
from rag.sources.sentences import sentence_spans

TOWER = "The Eiffel Tower is in Paris. Gustave Eiffel built it in 1889. It is made of iron."
BRIDGE = "A bridge crosses the Tyne. Queen Elizabeth II opened it in 1981."


def passage(text: str, rank: int = 1, start: int = 0, end: int | None = None) -> Passage:
    end = len(text) if end is None else end
    return Passage(rank, f"p{rank}", f"Title {rank}", text, start, end, text[start:end], 1.0)


GIVEN = [passage(TOWER, 1), passage(BRIDGE, 2)]


def cited(answer: str) -> dict[int, str]:
    return {one.marker: one.text for one in citations(answer, GIVEN)[1]}


def test_each_passage_gets_the_sentence_that_its_claim_matches_best() -> None:
    answer = "Gustave Eiffel built the tower [1]. Queen Elizabeth opened the bridge in 1981 [2]."
    text, found, unknown = citations(answer, GIVEN)
    assert text == answer and unknown == ()
    assert found == (
        Citation(1, "p1", "Title 1", 30, 62, "Gustave Eiffel built it in 1889."),
        Citation(2, "p2", "Title 2", 27, 64, "Queen Elizabeth II opened it in 1981."),
    )


@pytest.mark.parametrize(
    "marks", ["[1][2]", "[1, 2]", "[2;1]", "[ 1 ,2 ]", "[1] [2]", "[2] [1] [2]"]
)
def test_forms_of_markers(marks: str) -> None:
    assert sorted(cited(f"It was opened by a queen {marks}.")) == [1, 2]


@pytest.mark.parametrize(
    "text", ["[sic]", "[]", "[1990]", "(1)", "1", "[1.2]", "[a1]", "[-1]", "[१]"]
)
def test_other_brackets_are_text(text: str) -> None:
    answer = f"A queen {text} opened it."
    assert citations(answer, GIVEN) == (answer, (), ())


def test_a_marker_behind_the_full_stop_belongs_to_the_sentence_before() -> None:
    iron = "It is made of iron."
    assert cited("It is made of iron. [1] The queen opened it in 1981. [2]")[1] == iron
    assert cited("It is made of iron.[1] The queen opened it in 1981.[2]")[1] == iron
    assert cited("[1] It is made of iron.")[1] == iron


def test_a_passage_cited_twice_has_its_best_sentence_once() -> None:
    assert cited("Somebody did it [1]. Gustave Eiffel built it in 1889 [1].") == {
        1: "Gustave Eiffel built it in 1889."
    }


@pytest.mark.parametrize(
    ("answer", "text", "unknown"),
    [
        ("It is iron [7].", "It is iron.", (7,)),
        ("It is iron [1, 7].", "It is iron [1].", (7,)),
        ("It is iron [7, 1][9] [0].", "It is iron [1].", (0, 7, 9)),
        ("[3]", "", (3,)),
        ("It is iron [[7]1].", "It is iron [1].", (7,)),
    ],
)
def test_markers_that_name_no_passage_go(answer: str, text: str, unknown: tuple[int, ...]) -> None:
    assert citations(answer, GIVEN)[::2] == (text, unknown)


def test_offsets_point_into_the_stored_text_of_a_cut_passage() -> None:
    cut = passage(TOWER, 1, 30, 62)
    (found,) = citations("It is in Paris [1].", [cut])[1]
    assert (found.start, found.end, found.text) == (30, 62, TOWER[30:62])


def test_a_passage_without_a_sentence_is_cited_as_it_is() -> None:
    (found,) = citations("Yes [1].", [passage("   ")])[1]
    assert found.text == "   "[found.start : found.end]


def test_support_cites_where_the_words_stand() -> None:
    answer = "The queen opened the bridge in 1981. It was in spring. It was made of iron."
    assert [(one.marker, one.text) for one in support(answer, GIVEN)] == [
        (1, "It is made of iron."),
        (2, "Queen Elizabeth II opened it in 1981."),
    ]


def test_support_prefers_a_shared_word_to_shared_stop_words() -> None:
    text = "It is. Long ago a man whom all knew as Gustave made a tower of iron for Paris."
    (found,) = support("It is Gustave.", [passage(text)])
    assert found.text.startswith("Long ago")


def test_support_asks_for_more_than_stop_words() -> None:
    assert support("It is what it is.", GIVEN) == ()
    assert support("", GIVEN) == ()
    assert support("The tower is iron.", []) == ()


anything = st.text(st.characters(codec="utf-8"), max_size=60)
wordy = st.lists(
    st.sampled_from(["Paris", "iron", "the", "1981", ".", ". ", " ", "\n\n", "?", "[4]", "。"]),
    max_size=25,
).map("".join)
marks = st.lists(st.integers(0, 5), min_size=1, max_size=3)


@settings(deadline=None)
@given(st.lists(anything | wordy, min_size=1, max_size=3), wordy, marks, wordy, st.data())
def test_citations_are_the_best_sentences_of_stored_texts(
    texts: list[str], before: str, numbers: list[int], after: str, data: st.DataObject
) -> None:
    given_ = []
    for rank, text in enumerate(texts, 1):
        start = data.draw(st.integers(0, len(text)))
        given_.append(passage(text, rank, start, data.draw(st.integers(start, len(text)))))
    answer = f"{before} {numbers} {after}"
    text, found, unknown = citations(answer, given_)
    named = set(numbers) | ({4} if "[4]" in answer else set())
    assert [one.marker for one in found] == sorted(n for n in named if 1 <= n <= len(given_))
    assert list(unknown) == sorted(n for n in named if not 1 <= n <= len(given_))
    assert citations(text, given_)[2] == ()
    for one in [*found, *support(answer, given_)]:
        source = given_[one.marker - 1]
        assert one.text == source.stored[one.start : one.end]
        assert source.start <= one.start <= one.end <= source.end


@settings(deadline=None)
@given(wordy, wordy)
def test_one_sentence_cites_the_sentence_of_highest_f1(text: str, claim: str) -> None:
    claim = re.sub(r"[.?。\n]|\[4\]", " ", claim)
    (found,) = citations(f"{claim} [1]", [passage(text)])[1]
    spans = sentence_spans(text)
    scores = [f1(text[a:b], claim) for a, b in spans]
    if spans:
        assert (found.start, found.end) == spans[scores.index(max(scores))]


@settings(deadline=None)
@given(anything)
def test_text_without_digits_in_brackets_is_never_changed(answer: str) -> None:
    text = answer.replace("[", "(")
    assert citations(text, GIVEN) == (text, (), ())
