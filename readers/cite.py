"""Citations: the markers of an answer, and the sentences of the passages that support it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence

from rag.batch import Citation
from rag.readers.passages import Passage
from rag.readers.words import bag, bag_f1, f1, keywords, normalize
from rag.sources.sentences import sentence_spans

__all__ = ["citations", "f1", "normalize", "support"]

# At most three digits, so that a year in brackets is text.
MARKER = re.compile(r"\[\s*([0-9]{1,3}(?:\s*[,;]\s*[0-9]{1,3})*)\s*\]")
_SPACED = re.compile(rf"\s?{MARKER.pattern}")
_LED_BY = re.compile(rf"\s*(?:{MARKER.pattern}\s*)*")


def citations(
    answer: str, given: Sequence[Passage]
) -> tuple[str, tuple[Citation, ...], tuple[int, ...]]:
    """The passages that an answer cites by ``[n]`` markers, and the sentences it rests on.

    A marker is ``[1]``, ``[1][2]`` or ``[1, 2]``, where n counts the ``given`` passages from 1. It
    belongs to the sentence of the answer that holds it, and behind the full stop to the sentence
    before. For each cited passage the citation is the sentence of it with the highest token F1
    (``rag.readers.words.f1``) to a sentence of the answer that carries the marker; the earliest of
    equals.

    Returns:
        The answer without the markers that name no passage, otherwise as it was; one citation
        for each cited passage, by marker; and the numbers that name no passage.
    """
    carriers: dict[int, list[Counter[str]]] = {}
    for sentence, markers in _claims(answer):
        for n in markers:
            carriers.setdefault(n, []).append(bag(sentence))
    unknown = {n for n in carriers if not 1 <= n <= len(given)}
    if unknown:
        # Once more, since what is left may read otherwise: [[7]1] becomes [1].
        text, made, others = citations(_without(answer, unknown), given)
        return text, made, tuple(sorted(unknown.union(others)))
    found = []
    for n in sorted(carriers):
        scored = [one for claim in carriers[n] for one in _scored(n, given[n - 1], claim)]
        found.append(max(scored, key=lambda one: one[0])[1])
    return answer, tuple(found), ()


def support(answer: str, given: Sequence[Passage]) -> tuple[Citation, ...]:
    """Citations for an answer that has no markers, by the match of its sentences.

    Each sentence of the answer cites the one sentence of a passage that has the highest token F1
    to it among those that share a word with it that is no stop word; the first of equals, and one
    citation for each passage. This says where the words of the answer stand, not where the model
    took them from.
    """
    found: dict[int, tuple[float, Citation]] = {}
    for start, end in sentence_spans(answer):
        claim, words = bag(answer[start:end]), keywords(answer[start:end])
        scored = [
            (score, n, citation)
            for n, passage in enumerate(given, 1)
            for score, citation in _scored(n, passage, claim)
            if words & keywords(citation.text)
        ]
        if not scored:
            continue
        score, n, citation = max(scored, key=lambda one: one[0])
        if n not in found or score > found[n][0]:
            found[n] = (score, citation)
    return tuple(found[n][1] for n in sorted(found))


def _claims(answer: str) -> Iterator[tuple[str, list[int]]]:
    """The sentences of an answer without their markers, and the numbers that each carries."""
    pieces: list[str] = []
    for start, end in sentence_spans(answer):
        piece = answer[start:end]
        led = _LED_BY.match(piece)
        assert led is not None
        if pieces and led.end():  # behind the full stop: the sentence before is meant
            pieces[-1] += piece[: led.end()]
            piece = piece[led.end() :]
        pieces.append(piece)
    for piece in pieces:
        yield MARKER.sub(" ", piece), [n for m in MARKER.finditer(piece) for n in _numbers(m)]


def _numbers(marker: re.Match[str]) -> list[int]:
    return [int(n) for n in re.findall("[0-9]+", marker[1])]


def _scored(n: int, passage: Passage, claim: Counter[str]) -> list[tuple[float, Citation]]:
    """The sentences of a passage, each with its F1 to a claim."""
    # A kept part without a sentence is cited as it is: there is nothing better to point at.
    spans = passage.sentences() or [(passage.start, passage.end)]
    return [(bag_f1(bag(passage.stored[a:b]), claim), cited(n, passage, a, b)) for a, b in spans]


def cited(n: int, passage: Passage, start: int, end: int) -> Citation:
    """The citation ``[n]`` of a passage's stored text at ``start:end``."""
    return Citation(n, passage.id, passage.title, start, end, passage.stored[start:end])


def _without(answer: str, unknown: Container[int]) -> str:
    """The answer less the marker numbers that name no passage."""

    def kept(marker: re.Match[str]) -> str:
        numbers = _numbers(marker)
        good = [str(n) for n in numbers if n not in unknown]
        if len(good) == len(numbers):
            return marker[0]
        before, _, _ = marker[0].partition("[")
        return f"{before}[{', '.join(good)}]" if good else ""

    return _SPACED.sub(kept, answer).strip()
