"""How texts are compared: SQuAD's normalisation, token F1, and the words that carry meaning."""

from __future__ import annotations

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WORD = re.compile(r"\w+")

_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below
between both but by can could did do does doing during each few for from further had has have
having he her here hers him his how i if in into is it its itself just me more most my no nor not
of off on once only or other our out over own same she should so some such than that the their
them then there these they this those through to too under until up very was we were what when
where which while who whom whose why will with would you your s t
"""

STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that say nothing of what a question is about."""


def normalize(text: str) -> str:
    """A text as SQuAD's evaluation compares it.

    Lower case; ASCII punctuation deleted; the articles a, an, the deleted; whitespace collapsed,
    in this order (Rajpurkar et al., 2016, section 6.1, and its evaluation script).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1(prediction: str, gold: str) -> float:
    """Token F1 of two normalised texts, 0 to 1.

    The tokens are compared as multisets: precision and recall share the count of common tokens.
    Where either text has no token, 1 if neither has one, else 0 (as SQuAD 2 does).
    """
    return bag_f1(bag(prediction), bag(gold))


def bag_f1(prediction: Counter[str], gold: Counter[str]) -> float:
    """F1 of two bags of tokens; see ``f1``."""
    if not prediction or not gold:
        return float(prediction == gold)
    common = (prediction & gold).total()
    return 2 * common / (prediction.total() + gold.total())


def bag(text: str) -> Counter[str]:
    """The tokens of a normalised text, with their counts."""
    return Counter(normalize(text).split())


def keywords(text: str) -> frozenset[str]:
    """The lower-case words of a text less the stop words."""
    return frozenset(_WORD.findall(text.lower())) - STOP_WORDS
