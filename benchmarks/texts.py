"""Passages and questions of a corpus of ``corpus.py``, as the other benchmarks draw them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

Row = dict[str, str]

QUESTION = re.compile(
    r"(?<![\w,;] )\b(?:How|What|Why|When|Where|Which|Who|Does|Do|Can|Is|Are|Should)"
    r" [a-z][^.?!:;\"()<>{}]{15,120}\?"
)


def draw(corpus: Path, passages: int) -> list[Row]:
    """``passages`` rows with ``title`` and ``text``, evenly spread over the corpus, in its order.

    If the corpus has fewer, it is gone through again from its beginning: see ``distinct``.
    """
    with corpus.open("rb") as file:
        there = sum(1 for _ in file)
    numbers = np.arange(min(passages, there)) * there // min(passages, there)
    with corpus.open("rb") as file:
        chosen = set(numbers.tolist())
        lines = [line for number, line in enumerate(file) if number in chosen]
    rows = [{name: row[name] for name in ("title", "text")} for row in map(json.loads, lines)]
    return [rows[number % len(rows)] for number in range(passages)]


def distinct(rows: list[Row]) -> int:
    """How many of the rows differ."""
    return len({(row["title"], row["text"]) for row in rows})


def questions(corpus: Path, count: int, seed: int = 7) -> list[str]:
    """``count`` questions that the text itself asks, drawn at random from those of all passages.

    Raises:
        SystemExit: The corpus asks fewer.
    """
    found: dict[str, None] = {}
    with corpus.open("rb") as file:
        for line in file:
            if b"?" in line:
                found.update(dict.fromkeys(QUESTION.findall(json.loads(line)["text"])))
    if len(found) < count:
        raise SystemExit(f"{corpus} asks {len(found)} questions; ask for at most as many")
    chosen = np.random.default_rng(seed).choice(len(found), count, replace=False)
    wanted = set(chosen.tolist())
    return [text for number, text in enumerate(found) if number in wanted]
