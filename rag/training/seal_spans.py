"""Spans of a passage, drawn by how much they have of a question.

The overlap of a span of W words with a question is the sum of the likeness of each of its runs of
three words with each of the question's, and spans are drawn by softmax(overlap / temperature), as
the published training data of SEAL were made. Their likeness is a fuzzy ratio by edit distance;
here it is Dice's coefficient of the runs' character trigrams, 2 |A and B| / (|A| + |B|), which is
a product of matrices (``difflib`` took half of the training's time).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RUN = 3
"""Words of the runs that are compared."""
_WORD = re.compile(r"\S+")

Floats = NDArray[np.float64]


def overlaps(question: str, passage: str, words: int) -> Floats:
    """The overlap of each span of ``words`` words with the question, (spans,) float64.

    A passage of fewer words is one span; one without words has none.
    """
    asked, told = _runs(question), _runs(passage)
    count = len(_WORD.findall(passage))
    if not count:
        return np.zeros(0)
    numbers = {gram: at for at, gram in enumerate(sorted(set().union(*asked)))}
    one, other = _table(asked, numbers), _table(told, numbers)  # (runs, trigrams)
    sizes = np.array([len(each) for each in told])[:, None] + np.array([len(e) for e in asked])
    likeness = (2 * other @ one.T / np.maximum(sizes, 1)).sum(1)  # (runs of the passage,)
    inside = max(1, words - RUN + 1)
    totals = np.concatenate([[0.0], np.cumsum(likeness)])
    starts = np.arange(max(1, count - words + 1))
    ends = np.minimum(starts + inside, len(likeness))
    found: Floats = totals[ends] - totals[starts]
    return found


def spans(passage: str, words: int) -> list[str]:
    """Every run of ``words`` words of a passage, as it stands there; one that is shorter whole."""
    places = [(found.start(), found.end()) for found in _WORD.finditer(passage)]
    starts = range(max(1, len(places) - words + 1)) if places else ()
    return [passage[places[at][0] : places[min(at + words, len(places)) - 1][1]] for at in starts]


def chances(overlap: Floats, temperature: float) -> Floats:
    """The softmax of the overlaps divided by the temperature, (spans,) float64."""
    scaled = (overlap - overlap.max()) / temperature
    raised = np.exp(scaled)
    found: Floats = raised / raised.sum()
    return found


def drawn(
    texts: Sequence[str], chance: Floats | None, count: int, draw: np.random.Generator
) -> dict[str, int]:
    """``count`` of the texts, drawn with replacement; how often each was."""
    chosen = draw.choice(len(texts), size=count, p=chance).tolist() if len(texts) else []
    found: dict[str, int] = {}
    for number in chosen:
        found[texts[number]] = found.get(texts[number], 0) + 1
    return found


def _runs(text: str) -> list[set[str]]:
    """The character trigrams of each run of three words; of the whole where there are fewer."""
    words = text.lower().split()
    runs = [" ".join(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1))]
    return [{run[at : at + 3] for at in range(max(1, len(run) - 2))} for run in runs]


def _table(runs: Sequence[set[str]], numbers: dict[str, int]) -> Floats:
    """Which of the known trigrams each run has, (runs, trigrams) of 0 and 1."""
    table = np.zeros((len(runs), len(numbers)))
    for row, grams in enumerate(runs):
        table[row, [numbers[gram] for gram in grams if gram in numbers]] = 1
    return table
