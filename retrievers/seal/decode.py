"""Questions to keys: the n-grams that a model writes under the constraint of an index.

    keys = decode(SealModel.load("smollm2"), index, ["who discovered penicillin?"], Decoding())

As the reference does it: all partial hypotheses of a beam search for texts and of one for titles,
and runs of the question's words that the collection contains. Every key's score is the sum of the
log-probabilities of its tokens behind the prompt of its kind. Those of the beam search are this sum
already (no length penalty, no score of a constrained distribution), so that only the runs of words
are scored by passes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput
from rag.retrievers.seal.keys import BODY, SPAN, TITLE, Keys
from rag.retrievers.seal.spans import spans

if TYPE_CHECKING:
    from rag.indexers.fm_index import FMIndexes
    from rag.retrievers.seal.forward import Hypotheses
    from rag.retrievers.seal.model import SealModel

QUESTIONS_AT_ONCE = 16
"""The most questions that share their passes; caches and distributions are held for all of them."""

Ngram = tuple[int, ...]


@dataclass(frozen=True)
class Decoding:
    """What is generated of a question.

    beam: hypotheses that are gone on with in each step; twice as many become keys.
    length: the most tokens of a generated text; title_length: of a title, with its end.
    titles: whether titles are generated too.
    spans: the most words of a run of the question's own words; 0 for none.
    unigrams: whether the distribution of the first token is kept.
    weights: "pmi" also scores every key without a question.
    """

    beam: int = 15
    length: int = 10
    title_length: int = 15
    titles: bool = True
    spans: int = 3
    unigrams: bool = True
    weights: Literal["count", "pmi"] = "count"


def decode(
    model: SealModel, index: FMIndexes, questions: Sequence[str], settings: Decoding
) -> list[Keys | InvalidInput]:
    """The keys of each question, in order; those of an empty question are none.

    A question that does not fit into the model's context gets an error in its place. Questions do
    not influence one another but for rounding: a batch is only faster.

    Raises:
        InvalidInput: the index has tokens that the model does not know, so that it was built with
            another model's tokenizer.
    """
    check_vocabulary(model, index)
    found: list[Keys | InvalidInput] = [Keys.of([], [])] * len(questions)
    asked: list[tuple[int, list[list[int]]]] = []
    written = max(settings.length, settings.title_length if settings.titles else 0)
    for row, question in enumerate(questions):
        if not question.strip():
            continue
        prompts = model.prompts(question, titles=settings.titles)
        try:
            model.check(prompts, written)
        except InvalidInput as error:
            found[row] = error
        else:
            asked.append((row, prompts))
    # Alike in length, so that little is padded.
    asked.sort(key=lambda each: len(each[1][0]))
    for at in range(0, len(asked), QUESTIONS_AT_ONCE):
        rows = [row for row, _ in asked[at : at + QUESTIONS_AT_ONCE]]
        groups = [prompts for _, prompts in asked[at : at + QUESTIONS_AT_ONCE]]
        some = [questions[row] for row in rows]
        with model.lock:
            keys = _decoded(model, index, some, groups, settings)
        for row, each in zip(rows, keys, strict=True):
            found[row] = each
    return found


def check_vocabulary(model: SealModel, index: FMIndexes) -> None:
    """Raise InvalidInput where the index has tokens beyond the vocabulary of the model."""
    if index.limit > model.vocabulary:
        raise InvalidInput(
            f"the index has the token {index.limit - 1}, but the vocabulary of {model.name} ends "
            f"at {model.vocabulary - 1}: the index was built for another model; set 'model' to "
            "that one, or build the index again with this one"
        )


def _decoded(
    model: SealModel,
    index: FMIndexes,
    questions: list[str],
    groups: list[list[list[int]]],
    settings: Decoding,
) -> list[Keys]:
    """The keys of questions whose prompts are ``groups``: that for a text, that for a title."""
    from rag.retrievers.seal.beam import Search, search

    hypotheses = model.open(groups)
    rules = [Search(settings.length, index.whole())]
    if settings.titles:
        rules.append(Search(settings.title_length, index.starts(), model.layout.title_end))
    width = len(rules)
    unigrams = None
    if settings.unigrams:
        unigrams = _distributions(hypotheses.logits[::width])
    histories = search(hypotheses, index, rules * len(groups), settings.beam)
    keys: list[dict[Ngram, tuple[int, float]]] = []
    for at in range(len(groups)):
        mine = {ngram: (BODY, score) for ngram, score in histories[at * width].items()}
        if settings.titles:
            titles = histories[at * width + 1].items()
            end = model.layout.title_end
            # An end alone is the title of the passages that have none.
            mine |= {
                ngram: (TITLE, score)
                for ngram, score in titles
                if ngram[-1] == end and len(ngram) > 1
            }
        keys.append(mine)
    _add_spans(model, index, hypotheses, questions, keys, width, settings.spans)
    bases: list[list[float] | None] = [None] * len(groups)
    base_unigrams = None
    if settings.weights == "pmi":
        hypotheses = model.without(titles=settings.titles)
        bases = list(_bases(model, hypotheses, keys))
        if settings.unigrams:
            # Finite, so that a token that the model always forbids has minus infinity as its
            # difference, not none.
            least = np.finfo(np.float32).min
            base_unigrams = np.maximum(_distributions(hypotheses.logits[:1])[0], least)
    return [
        Keys.of(
            list(mine),
            [score for _, score in mine.values()],
            kinds=[kind for kind, _ in mine.values()],
            base=base,
            unigrams=None if unigrams is None else unigrams[at],
            base_unigrams=base_unigrams,
        )
        for at, (mine, base) in enumerate(zip(keys, bases, strict=True))
    ]


def _distributions(logits: Any) -> NDArray[np.float32]:
    """Log-probabilities, (rows, V) float32."""
    import torch

    with torch.inference_mode():
        return np.asarray(torch.log_softmax(logits, -1).cpu().numpy(), np.float32)


def _add_spans(
    model: SealModel,
    index: FMIndexes,
    hypotheses: Hypotheses,
    questions: list[str],
    keys: list[dict[Ngram, tuple[int, float]]],
    width: int,
    longest: int,
) -> None:
    """Add the runs of words that the index contains, scored behind the prompts for a text."""
    texts = [spans(question, longest) if longest else [] for question in questions]
    ids = model.encode([model.layout.lead + text for each in texts for text in each])
    owners = np.repeat(np.arange(len(texts)), [len(each) for each in texts])
    new = dict.fromkeys(
        (owner, tuple(ngram))
        for owner, ngram in zip(owners.tolist(), ids, strict=True)
        if ngram and tuple(ngram) not in keys[owner] and max(ngram) < index.limit
    )
    counts = index.count([list(ngram) for _, ngram in new]) if new else np.zeros(0, np.int64)
    there = [pair for pair, count in zip(new, counts.tolist(), strict=True) if count]
    prompts = np.array([owner * width for owner, _ in there], np.int64)
    scores = hypotheses.score(prompts, [ngram for _, ngram in there])
    for (owner, ngram), score in zip(there, scores.tolist(), strict=True):
        if score > -np.inf:  # it holds a token that the model forbids
            keys[owner][ngram] = (SPAN, score)


def _bases(
    model: SealModel, hypotheses: Hypotheses, keys: list[dict[Ngram, tuple[int, float]]]
) -> list[list[float]]:
    """The scores of all keys behind the prompts of no question, remembered over calls."""
    wanted = [[(int(kind == TITLE), ngram) for ngram, (kind, _) in mine.items()] for mine in keys]
    known = {pair: model.remembered.get(pair) for each in wanted for pair in each}
    new = [pair for pair, score in known.items() if score is None]
    scores = hypotheses.score(
        np.array([kind for kind, _ in new], np.int64), [ngram for _, ngram in new]
    )
    for (kind, ngram), score in zip(new, scores.tolist(), strict=True):
        known[kind, ngram] = score
        model.remember(kind, ngram, score)
    return [[known[pair] or 0.0 for pair in each] for each in wanted]
