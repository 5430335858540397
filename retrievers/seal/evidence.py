"""Why a passage was found: the n-grams that count in it, in words, and where they stand.

The evidence of a passage is a list of JSON objects, n-grams by falling weight and then single
tokens from the left:

    ngram    the text of its tokens, with the space that stands before a word
    kind     "text" or "title", as the model wrote it; "question", a run of the question's words;
             "token", a single token
    tokens   how many it has
    weight   what it adds to the score
    position that of its last token among the passage's tokens (``rag.indexers.layout``), where it
             stands first; ``spans`` says which characters these are
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from rag.retrievers.seal.keys import BODY, SPAN, TITLE

if TYPE_CHECKING:
    from rag.indexers.token_ids import TokenIds
    from rag.retrievers.seal.keys import Keys
    from rag.retrievers.seal.score import Scored

KINDS = {BODY: "text", TITLE: "title", SPAN: "question"}


def evidence(
    keys: Keys, scored: Scored, decode: Callable[[list[list[int]]], list[str]]
) -> list[list[dict[str, Any]]]:
    """The evidence of each scored document; ``decode`` makes texts of token ids."""
    numbers, tokens = np.unique(scored.keys).tolist(), np.unique(scored.tokens).tolist()
    numbers = [number for number in numbers if number >= 0]
    tokens = [token for token in tokens if token >= 0]
    ngrams = [keys.ngram(number) for number in numbers]
    texts = decode(ngrams + [[token] for token in tokens])
    heads = {
        (number, -1): {"ngram": text, "kind": KINDS[int(keys.kinds[number])], "tokens": len(ngram)}
        for number, ngram, text in zip(numbers, ngrams, texts, strict=False)
    }
    heads |= {
        (-1, token): {"ngram": text, "kind": "token", "tokens": 1}
        for token, text in zip(tokens, texts[len(ngrams) :], strict=True)
    }
    flat = [
        heads[number, token] | {"weight": weight, "position": position}
        for number, token, weight, position in zip(
            scored.keys.tolist(),
            scored.tokens.tolist(),
            scored.weights.tolist(),
            scored.positions.tolist(),
            strict=True,
        )
    ]
    ends = scored.offsets.tolist()
    return [flat[a:b] for a, b in pairwise(ends)]


def spans(
    found: Sequence[dict[str, Any]], title: str, text: str, tokenizer: TokenIds
) -> list[dict[str, tuple[int, int]]]:
    """Where the n-grams of a passage stand in its title and its text.

    Args:
        found: the evidence of the passage.
        title: the title of the passage, as it is stored.
        text: the text of it.
        tokenizer: that of the index.

    Returns:
        For each n-gram "title" or "text" (both, where it goes from the one into the other) to
        (start, end) in code points, without white space around it; nothing where it is white space
        alone, or where the tokenizer does not say what its tokens stand for.
    """
    places = tokenizer.places([title, text])
    if places is None:
        return [{} for _ in found]
    first = len(places[0]) + 1  # after the token that ends the title
    made = []
    for entry in found:
        end = entry["position"] + 1
        start = end - entry["tokens"]
        parts = {
            "title": (title, places[0][start:end]),
            "text": (text, places[1][max(0, start - first) : max(0, end - first)]),
        }
        its = {name: _trimmed(*part) for name, part in parts.items() if len(part[1])}
        made.append({name: span for name, span in its.items() if span[0] < span[1]})
    return made


def _trimmed(text: str, places: list[tuple[int, int]]) -> tuple[int, int]:
    start, end = min(a for a, _ in places), max(b for _, b in places)
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
