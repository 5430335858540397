"""Beam search over n-grams that a collection contains, for many prompts at once.

One step, for each search (a prompt), with ``beam`` hypotheses and their sums of log-probabilities:

1. The candidates are the tokens that the index has behind each hypothesis. A candidate's score is
   the sum with the token's log-probability added, normalised over the whole vocabulary: the
   constraint limits what is chosen, never what it scores.
2. The best ``2 * beam`` of a search go into its history, which is the result: every candidate, also
   those that are not gone on with. Ties go to the earlier hypothesis, then to the smaller token.
3. The best ``beam`` of them that have not ended are the hypotheses of the next step.

A hypothesis that occurs once in the collection has one continuation: the rest of its passage. When
all of a search's have one, none of them can drop out any more, and all continuations are scored in
one pass, each hypothesis by itself (``force``); later steps find its only candidate and its
log-probability there. Sooner it would cost more than it saves: the others need their passes anyway,
and of the continuations many belong to hypotheses that drop out (on a small collection, where most
n-grams are unique after two tokens, that made a search 1.9 times as long). A search is over when no
hypothesis is left, and its rows are dropped from the passes of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rag.indexers.fm_index import FMIndexes
    from rag.retrievers.seal.forward import Hypotheses

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Search:
    """What is searched behind one prompt.

    length: the most tokens.
    start: (S, 2) rows of the index that may begin an n-gram.
    end: the token that ends an n-gram, or None where nothing does.
    """

    length: int
    start: Ints
    end: int | None = None


@dataclass(eq=False)
class _Hypothesis:
    """An n-gram, its score, and where it goes on: in the model's rows, or along a known tail."""

    search: int
    tokens: tuple[int, ...]
    score: float
    rows: Ints  # (S, 2) of the index; stale along a tail
    node: int = -1  # of the model's hypotheses
    tail: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)  # of the tail


def search(
    hypotheses: Hypotheses,
    index: FMIndexes,
    searches: Sequence[Search],
    beam: int,
    *,
    force: bool = True,
) -> list[dict[tuple[int, ...], float]]:
    """The history of each search: n-gram -> sum of log p(token | prompt, tokens before).

    ``searches[i]`` goes on from prompt i of ``hypotheses``, which are used up. ``force`` changes
    which passes are made, not what comes out.
    """
    histories: list[dict[tuple[int, ...], float]] = [{} for _ in searches]
    live = [_Hypothesis(at, (), 0.0, each.start, at) for at, each in enumerate(searches)]
    logits = hypotheses.logits
    for step in range(1, max((each.length for each in searches), default=0) + 1):
        going = []
        chosen = _candidates(index, live, logits, 2 * beam)
        for at in sorted(chosen):
            best = chosen[at]
            histories[at].update((each.tokens, each.score) for each in best)
            end, length = searches[at].end, searches[at].length
            if step < length:
                going += [each for each in best if each.tokens[-1] != end][:beam]
        live, logits = _grown(hypotheses, index, going, searches, step, force=force)
        if not live:
            break
    return histories


def _candidates(
    index: FMIndexes, live: list[_Hypothesis], logits: Any, most: int
) -> dict[int, list[_Hypothesis]]:
    """The best candidates of each search, best first."""
    import torch

    free = [each for each in live if each.node >= 0]
    ranked: dict[int, list[tuple[float, int, int, Any]]] = {}
    place = {id(each): at for at, each in enumerate(live)}
    if free:
        nodes = [each.node for each in free]
        with torch.inference_mode():
            norms = torch.logsumexp(logits, -1).double().cpu().numpy()[nodes]
        plain = logits.cpu().numpy()
        if nodes != list(range(len(plain))):
            plain = plain[nodes]
        ranges = np.stack([each.rows for each in free])
        tokens, scores, rows = index.top_k(ranges, plain, most)
        sums = scores.astype(np.float64) + (np.array([e.score for e in free]) - norms)[:, None]
        # Sorted once for all: by search, then best first, then the earlier hypothesis, whose
        # candidates are in the order of their tokens where they are equal.
        owner = np.repeat([each.search for each in free], tokens.shape[1])
        flat = np.flatnonzero(tokens.ravel() >= 0)
        order = flat[np.lexsort((-sums.ravel()[flat], owner[flat]))]
        begins = np.searchsorted(owner[order], np.unique(owner[order]))
        for part in np.split(order, begins[1:]):
            for at in part[:most].tolist():
                who, k = divmod(at, tokens.shape[1])
                entry = (float(sums[who, k]), who, int(tokens[who, k]), rows[who, k])
                ranked.setdefault(free[who].search, []).append(
                    (entry[0], place[id(free[who])], entry[2], entry[3])
                )
    for at, each in enumerate(live):
        if each.tail and each.log_probs[0] > -np.inf:  # as in top_k: a token that is forbidden
            total = each.score + each.log_probs[0]
            ranked.setdefault(each.search, []).append((total, at, each.tail[0], None))
    found = {}
    for one, entries in ranked.items():
        entries.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
        found[one] = [
            _next(live[at], token, score, rows) for score, at, token, rows in entries[:most]
        ]
    return found


def _next(before: _Hypothesis, token: int, score: float, rows: Any) -> _Hypothesis:
    tokens = (*before.tokens, token)
    if rows is None:
        tail, log_probs = before.tail[1:], before.log_probs[1:]
        return _Hypothesis(before.search, tokens, score, before.rows, -1, tail, log_probs)
    return _Hypothesis(before.search, tokens, score, rows, before.node)


def _grown(
    hypotheses: Hypotheses,
    index: FMIndexes,
    going: list[_Hypothesis],
    searches: Sequence[Search],
    step: int,
    *,
    force: bool,
) -> tuple[list[_Hypothesis], Any]:
    """The hypotheses of the next step with the logits behind those that have no tail."""
    fresh = [each for each in going if each.node >= 0]
    tails = _tails(index, fresh, searches, step) if force else {}
    # At the end of the only passage that it occurs in, a hypothesis has no next step.
    fresh = [each for each in fresh if tails.get(id(each)) != []]
    going = [each for each in going if each.tail or (each.node >= 0 and tails.get(id(each)) != [])]
    if not fresh:
        return going, None
    # A search that has a hypothesis with more than one continuation takes its steps.
    open_ = {each.search for each in fresh if id(each) not in tails}
    given = [None if each.search in open_ else tails[id(each)] for each in fresh]
    logits, found = hypotheses.grow(
        np.array([each.node for each in fresh]),
        np.array([each.tokens[-1] for each in fresh]),
        given,
    )
    free = 0
    scored = iter(found)
    for each, tail in zip(fresh, given, strict=True):
        if tail is None:
            each.node, free = free, free + 1
        else:
            each.node, each.tail, each.log_probs = -1, tail, next(scored).tolist()
    return going, logits


def _tails(
    index: FMIndexes, fresh: list[_Hypothesis], searches: Sequence[Search], step: int
) -> dict[int, list[int]]:
    """What follows each hypothesis that occurs once, by its id(): up to its end or its length."""
    if not fresh:
        return {}
    ranges = np.stack([each.rows for each in fresh])
    once = np.flatnonzero(index.widths(ranges) == 1)
    if not len(once):
        return {}
    rules = [searches[fresh[at].search] for at in once.tolist()]
    offsets, tokens = index.following(
        ranges[once], np.array([rule.length - step for rule in rules])
    )
    tails = {}
    for at, rule, begin, end in zip(
        once.tolist(), rules, offsets[:-1].tolist(), offsets[1:].tolist(), strict=True
    ):
        tail = tokens[begin:end].tolist()
        if rule.end is not None and rule.end in tail:
            tail = tail[: tail.index(rule.end) + 1]
        tails[id(fresh[at])] = tail
    return tails
