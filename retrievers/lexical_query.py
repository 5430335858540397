"""What a lexical query asks for: words, and in the syntax ``phrases`` also phrases and prefixes.

    plain      every character is text: quotes and stars mean nothing
    phrases    "words in quotes"   must stand like that in the title or in the text of a passage
               begin*              every term of the index that begins so, each a word of the query
               other words         count towards the score, as in ``plain``

Words of a phrase are compared after lower case and stemming, as everywhere. Stop words count in a
phrase, though the index leaves them out; words of one letter are no words and count nowhere. A
prefix is compared with terms as the index holds them, so after stemming: ``runn*`` finds "runner",
and ``running*`` finds nothing where "running" is stored as "run". A star inside quotes is text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from rag.errors import InvalidInput

if TYPE_CHECKING:
    from rag.indexers.lexical_index import LexicalIndex

Syntax = Literal["plain", "phrases"]

MOST_TERMS = 1024
"""How many terms a prefix may stand for, which is Lucene's limit (``maxClauseCount``) too."""


class LexicalQuery(NamedTuple):
    """A query that was read."""

    terms: list[str]
    """What is scored, with repetitions: the words, those of the phrases, and expanded prefixes."""
    phrases: list[str]
    """What a passage must hold, as it was written between the quotes."""


def read(text: str, index: LexicalIndex, syntax: Syntax = "plain") -> LexicalQuery:
    """Read a query.

    Args:
        text: the query.
        index: whose terms it is about.
        syntax: see the module's docstring.

    Raises:
        InvalidInput: a quote is not closed, a phrase has no word that is indexed, or a prefix
            stands for more than ``MOST_TERMS`` terms.
    """
    if syntax == "plain":
        return LexicalQuery(index.tokens(text), [])
    pieces = text.split('"')
    if len(pieces) % 2 == 0:
        raise InvalidInput(
            f"query {text!r}: a quote is not closed; write phrases as "
            "\"two words\", or search with 'syntax: plain'"
        )
    terms: list[str] = []
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            terms += _loose(piece, index)
            continue
        words = index.tokens(piece)
        if not words:
            raise InvalidInput(
                f'query {text!r}: the phrase "{piece}" has no word that is indexed (stop words '
                "and words of one letter are not); add a word to it, or leave it out"
            )
        terms += words
    return LexicalQuery(terms, pieces[1::2])


def _loose(piece: str, index: LexicalIndex) -> Iterator[str]:
    """The terms of what stands outside quotes: words, and what its prefixes stand for."""
    from rag.indexers.tokenizer import Tokenizer, runs

    starred = [(i, j) for i, j in runs(piece) if piece[j : j + 1] == "*"]
    rest = list(piece)
    for start, end in starred:
        rest[start : end + 1] = " " * (end + 1 - start)
    yield from index.tokens("".join(rest))
    plain = Tokenizer("none", "none")
    for start, end in starred:
        # Letters behind it make a word of a single letter, and keep a last sigma as it is inside.
        lower = plain.tokens([piece[start:end] + "xx"])[0][0][:-2]
        yield from index.expand(lower, most=MOST_TERMS)
