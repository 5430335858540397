"""Which words of a text a query asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rag.indexers.tokenizer import Tokenizer


def spans(terms: Iterable[str], text: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Where the words stand whose terms are among ``terms``.

    Args:
        terms: what the query asks for, as the index holds it (``lexical_query.read``).
        text: any text.
        tokenizer: the index's own, so that a query for "running" marks "runs".

    Returns:
        (start, end) in code points, ascending and apart from one another.
    """
    wanted = set(terms)
    return [(word.start, word.end) for word in tokenizer.words(text) if word.term in wanted]
