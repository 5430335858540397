"""Which words of a text a query asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag.indexers.tokenizer import Tokenizer

BLOCK = 1 << 20
"""How many characters are looked at together; a word that is longer is not marked."""


def spans(terms: Iterable[str], text: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Where the words stand whose terms are among ``terms``.

    Time is linear in the text, and the memory beside it bounded by ``BLOCK``.

    Args:
        terms: what the query asks for, as the index holds it (``lexical_query.read``).
        text: any text.
        tokenizer: the index's own, so that a query for "running" marks "runs".

    Returns:
        (start, end) in code points, ascending and apart from one another.
    """
    wanted = frozenset(terms)
    found = list[tuple[int, int]]()
    for first, last in _blocks(text):
        starts, ends = tokenizer.places(text[first:last], wanted)
        found += zip((starts + first).tolist(), (ends + first).tolist(), strict=True)
    return found


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Parts of a text that cut no word: at white space, or else where a word begins."""
    from rag.indexers.tokenizer import runs

    start = 0
    while len(text) - start > BLOCK:
        end = max(text.rfind(white, start, start + BLOCK) for white in " \n\t")
        if end <= start:
            last = runs(text[start : start + BLOCK])[-1:]
            end = start + (last[0][0] if last and last[0][1] == BLOCK else BLOCK)
        if end > start:
            yield start, end
            start = end
        else:
            start = _end_of_word(text, start + BLOCK)
    yield start, len(text)


def _end_of_word(text: str, at: int) -> int:
    """Where the word ends that ``at`` lies in, or that ends there."""
    from rag.indexers.tokenizer import runs

    while at < len(text):
        # A word may end between two letters: what İ is folded to ends in no letter.
        if runs(text[at - 1 : at + 1]) != [(0, 2)]:
            break
        at += runs(text[at : at + BLOCK])[0][1]
    return at
