r"""Cutting a document into passages.

The id of a passage is ``{document}#{part}``, always, also where a document has one part. What
follows the last ``#`` is the part and what precedes it the document, so two passages have the
same id only if they are the same part of the same document: while document ids are unique,
passage ids are. The document ``a#0`` beside a document ``a`` gives ``a#0#0``, never ``a#0``.
"""

from __future__ import annotations

import re

from rag.sources.sentences import sentence_spans
from rag.sources.settings import Split

_WORD = re.compile(r"\S+")


def pieces(text: str, split: Split) -> list[tuple[int, int]]:
    """The spans ``(start, end)`` of the passages of ``text``, in code points.

    A passage reaches from the start of its first word or sentence to the end of its last. The
    last passage may be shorter, and is never inside the one before. A text without any word is
    one passage, the whole of it.
    """
    if split.by == "words":
        units = [match.span() for match in _WORD.finditer(text)]
    else:
        units = sentence_spans(text)
    if not units:
        return [(0, len(text))]
    # A window that reaches the last unit is the last: one further on would be inside it.
    starts = range(0, max(len(units) - split.overlap, 1), split.size - split.overlap)
    return [
        (units[first][0], units[min(first + split.size, len(units)) - 1][1]) for first in starts
    ]
