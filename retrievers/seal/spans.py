"""The runs of words of a question that may stand in a collection."""

from __future__ import annotations

import itertools
import re

_EDGES = re.compile(r"^\W+|\W+$")


def spans(question: str, longest: int) -> list[str]:
    """Every run of 1 to ``longest`` words, each word with a small and with a capital first letter.

    Words are what white space separates; marks at both ends of a run are not part of it, those
    inside are. Runs come once, in the order in which they begin, the shorter first and, of one run,
    as it stands in the question first.
    """
    words = question.split()
    found: dict[str, None] = {}
    for begin in range(len(words)):
        for end in range(begin + 1, min(begin + longest, len(words)) + 1):
            run = _EDGES.sub("", " ".join(words[begin:end]))
            for variant in itertools.product(*map(_cases, run.split())):
                if variant:
                    found.setdefault(" ".join(variant))
    return list(found)


def _cases(word: str) -> list[str]:
    """A word as it is and, where its first letter has another case, in that."""
    first = word[0]
    other = first.lower() if first.isupper() else first.upper()
    return [word] if other == first else [word, other + word[1:]]
