from __future__ import annotations

import math
import re
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InvalidInput
from rag.eval import measures
from rag.eval.runs import fallen

DOCS = "abcdefgh"
QRELS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCS), st.integers(0, 3), min_size=1),
    min_size=1,
)
RANKED = st.lists(st.sampled_from(DOCS), unique=True)
RUNS = st.dictionaries(st.sampled_from(["q1", "q2", "q3", "q4"]), RANKED)


def ndcg(grades: dict[str, int], ranked: list[str], k: int) -> float:
    def gain(values: list[int]) -> float:
        return sum(value / math.log2(rank + 2) for rank, value in enumerate(values[:k]))

    ideal = gain(sorted(grades.values(), reverse=True))
    return gain([grades.get(doc, 0) for doc in ranked]) / ideal if ideal else 0.0


def recall(grades: dict[str, int], ranked: list[str], k: int) -> float:
    relevant = {doc for doc, grade in grades.items() if grade > 0}
    return len(relevant & set(ranked[:k])) / len(relevant) if relevant else 0.0


def reciprocal(grades: dict[str, int], ranked: list[str], k: int) -> float:
    return next((1 / n for n, doc in enumerate(ranked[:k], 1) if grades.get(doc, 0) > 0), 0.0)


@settings(deadline=None)
@given(QRELS, RUNS, st.integers(1, 8))
def test_equal_to_the_definitions(
    qrels: dict[str, dict[str, int]], order: dict[str, list[str]], k: int
) -> None:
    # All scores are tied: what counts is the order that we give.
    run = fallen({query: [(doc, 1.0) for doc in docs] for query, docs in order.items()})
    names = [f"nDCG@{k}", f"R@{k}", f"RR@{k}"]
    found = measures.retrieval(names, qrels, run)
    assert found.each.keys() == qrels.keys()
    for name, rule in zip(names, (ndcg, recall, reciprocal), strict=True):
        expected = {q: rule(grades, order.get(q, []), k) for q, grades in qrels.items()}
        assert {q: its[name] for q, its in found.each.items()} == pytest.approx(expected, abs=1e-6)
        assert found.means[name] == pytest.approx(sum(expected.values()) / len(qrels), abs=1e-6)


def test_negative_grades_are_not_relevant() -> None:
    qrels = {"q": {"a": -2, "b": 1}}
    found = measures.retrieval(["P@1", "R@2"], qrels, {"q": [("a", 2.0), ("b", 1.0)]})
    assert found.means == {"P@1": 0.0, "R@2": 1.0}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nDCG@10", ["nDCG@10"]),
        ("ndcg_cut_10", ["nDCG@10"]),
        ("recip_rank", ["RR"]),
        ("map", ["AP"]),
        ("MAP", ["AP"]),
        ("recall_100", ["R@100"]),
        ("Recall@100", ["R@100"]),
        ("recall_5,10", ["R@5", "R@10"]),
        ("P.5", ["P@5"]),
        ("P(rel=2)@5", ["P(rel=2)@5"]),
        ("EM", ["EM"]),
    ],
)
def test_names(name: str, expected: list[str]) -> None:
    assert measures.parse([name]) == expected


def test_a_measure_named_twice_counts_once() -> None:
    assert measures.parse(["AP", "map", "MAP"]) == ["AP"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndcg@10", "unknown measure 'ndcg@10'; did you mean nDCG@10"),
        ("recall@5", "did you mean Recall@5"),
        ("em", "did you mean EM"),
        ("wellness", "for example nDCG@10"),
        ("nDCG@0", "cutoff is 0, and must be 1 or more"),  # would end the process
        ("ndcg_cut_0", "cutoff is 0"),
        ("P(rel=0)@5", "rel is 0"),
        ("R", "'R' is not complete"),
        ("nDCG@ten", "is not complete"),
        ("", "is not complete"),
        ("alpha_nDCG@10", "not among those that can be computed"),
    ],
)
def test_bad_names(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        measures.parse([name])


def squad_normal(text: str) -> str:
    """The rules of the evaluation that was published with SQuAD 1.1."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(prediction: str, truth: str) -> float:
    left, right = squad_normal(prediction).split(), squad_normal(truth).split()
    same = sum((Counter(left) & Counter(right)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(left), same / len(right)
    return 2 * precision * recall / (precision + recall)


CASES = [
    ("The Panthers", ["panthers"]),
    ("the the cat sat", ["a cat", "the cat sat down"]),
    ("308 points", ["308", "points 308 308"]),
    ("U.S.A.", ["USA", "u s a"]),
    ("Beyoncé Knowles", ["beyoncé", "Beyonce Knowles"]),
    ("1–2", ["12", "1-2"]),
    ("“theatre”", ["theatre", "a theatre"]),
    ("İstanbul ÉCOLE", ["istanbul école", "the İstanbul"]),
    ("東京 タワー", ["東京タワー", "東京"]),
    ("an\u00a0apple", ["apple"]),
    ("", ["x"]),
    ("nothing in common", ["x", "y"]),
]


@pytest.mark.parametrize(("answer", "gold"), CASES)
def test_answers_as_squad_measures_them(answer: str, gold: list[str]) -> None:
    found = measures.answers(["EM", "F1"], {"q": gold}, {"q": answer}).means
    assert found["EM"] == max(squad_normal(answer) == squad_normal(text) for text in gold)
    assert found["F1"] == pytest.approx(max(squad_f1(answer, text) for text in gold))


def test_no_answer_counts_zero_and_no_gold_does_not_count() -> None:
    gold = {"q1": ["x"], "q2": ["y"]}
    found = measures.answers(["EM"], gold, {"q1": "x", "q2": None, "q3": "z"})
    assert found.means == {"EM": 0.5}
    assert found.each == {"q1": {"EM": 1.0}, "q2": {"EM": 0.0}}
