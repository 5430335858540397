"""SQuAD's normalisation and F1, against hand-made cases and naive counting."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.readers import cite
from rag.readers.words import f1, keywords, normalize

tokens = st.lists(st.sampled_from(["a", "the", "red", "fox", "fox.", "Ran", "42"]), max_size=6)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an  apple\n a day", "apple day"),
        ("U.S.A.", "usa"),  # punctuation goes before articles, so this is no article
        ("a-b", "ab"),
        ("“quoted” – dash", "“quoted” – dash"),  # only ASCII punctuation
        ("theatre another", "theatre another"),
        ("...", ""),
    ],
)
def test_normalize(text: str, normal: str) -> None:
    assert normalize(text) == normal
    assert normalize(normal) == normal


@pytest.mark.parametrize(
    ("prediction", "gold", "score"),
    [
        ("the tower", "Tower", 1.0),
        ("in 1886", "1886", 2 / 3),
        ("fox fox", "fox", 2 / 3),
        ("", "", 1.0),
        ("the", "a", 1.0),
        ("", "fox", 0.0),
        ("dog", "fox", 0.0),
    ],
)
def test_f1(prediction: str, gold: str, score: float) -> None:
    assert f1(prediction, gold) == pytest.approx(score)


@settings(deadline=None)
@given(tokens, tokens)
def test_f1_equals_precision_and_recall(left: list[str], right: list[str]) -> None:
    prediction, gold = normalize(" ".join(left)).split(), normalize(" ".join(right)).split()
    rest, common = list(gold), 0
    for token in prediction:
        if token in rest:
            rest.remove(token)
            common += 1
    expected = float(prediction == gold)
    if common:
        precision, recall = common / len(prediction), common / len(gold)
        expected = 2 * precision * recall / (precision + recall)
    assert f1(" ".join(left), " ".join(right)) == pytest.approx(expected)
    assert f1(" ".join(left), " ".join(right)) == f1(" ".join(right), " ".join(left))


def test_citations_measure_with_the_same_functions() -> None:
    assert cite.f1 is f1 and cite.normalize is normalize


def test_keywords_leave_out_stop_words() -> None:
    assert keywords("Who was the first King of Scotland?") == {"first", "king", "scotland"}
    assert keywords("Was ist Größe?") == {"ist", "größe"}
