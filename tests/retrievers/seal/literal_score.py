"""Scoring by keys as SEAL defines it, and slowly: plain lists, dictionaries and sets.

It searches every document by comparing slices, and follows the steps one by one. Where SEAL leaves
an order to its index, this takes the documents by number and the places from the left; keys of
equal weight come by their tokens. A title has the marker START before its tokens, and so has every
document.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rag.retrievers.seal.keys import TITLE, Keys
from rag.retrievers.seal.weigh import Scoring

Ngram = tuple[int, ...]
Evidence = list[tuple[Ngram, float, int]]
START = -2


def literal_score(
    keys: Keys, documents: Sequence[Sequence[int]], how: Scoring, hidden: frozenset[int]
) -> list[tuple[int, float, Evidence]]:
    """(document, score, evidence) of the fully scored ones, best first."""
    texts = [[START, *document] for document in documents]
    rows = sum(len(text) for text in texts)  # the tokens, and one end a document

    where: list[dict[int, list[int]]] = [{} for _ in texts]
    for text, spots in zip(texts, where, strict=True):
        for i, token in enumerate(text):
            spots.setdefault(token, []).append(i)

    def places(ngram: Ngram, d: int) -> list[int]:
        n = len(ngram)
        return [i for i in where[d].get(ngram[0], ()) if tuple(texts[d][i : i + n]) == ngram]

    def prior(count: int) -> float:
        return (count + how.smoothing) / (rows + how.smoothing)

    def odds(log_p: float, count: int) -> float:
        p, q = math.exp(log_p), prior(count)
        return math.log(p * (1 - q) / (q * (1 - p))) if p > 0 else -math.inf

    ngrams = [
        (START, *ngram) if kind == TITLE else tuple(ngram)
        for ngram, kind in zip(keys.ngrams(), keys.kinds.tolist(), strict=True)
    ]
    hits = {n: [(d, i) for d in range(len(texts)) for i in places(n, d)] for n in ngrams}

    weights: dict[Ngram, float] = {}
    for i, ngram in enumerate(ngrams):
        log_p = float(keys.log_probs[i])
        if how.weights == "pmi":
            assert keys.base is not None
            value = log_p - float(keys.base[i])
        else:
            value = odds(log_p - 1e-10, len(hits[ngram])) if hits[ngram] else 0.0
        weights[ngram] = max(value, 0.0) ** how.alpha if hits[ngram] else 0.0

    unigrams: dict[int, float] = {}
    if keys.unigrams is not None:
        log_ps = keys.unigrams.tolist()
        occurring = Counter(token for document in documents for token in document)
        likely = sorted(range(len(log_ps)), key=lambda t: (-log_ps[t], t))[: how.unigram_top]
        for token in likely:
            if (token,) in weights or not occurring[token]:
                continue
            if how.weights == "pmi":
                assert keys.base_unigrams is not None
                value = log_ps[token] - float(keys.base_unigrams[token])
            else:
                value = odds(log_ps[token], occurring[token])
            unigrams[token] = max(value, 0.0)
        for token in sorted(unigrams, key=lambda t: (-unigrams[t], t))[: len(ngrams)]:
            weights[(token,)] = unigrams[token]
            hits[(token,)] = [(d, i) for d in range(len(texts)) for i in places((token,), d)]

    ordered = sorted((n for n in weights if weights[n] > 0), key=lambda n: (-weights[n], n))

    def repeated(ngram: Ngram, held: set[int]) -> float:
        tokens = set(ngram)
        return 1 - how.beta + how.beta * len(tokens - held) / len(tokens)

    # Stage 1: keys that occur rarely enough, where no better key stands.
    covered: set[tuple[int, int]] = set()
    first: dict[int, list[Ngram]] = {}
    best: dict[int, float] = {}
    for ngram in ordered:
        if len(hits[ngram]) > how.max_hits:
            continue
        for document, i in hits[ngram]:
            best[document] = max(best.get(document, 0.0), weights[ngram])
            spot = {(document, j) for j in range(i, i + len(ngram))}
            if not spot & covered:
                covered |= spot
                if ngram not in first.setdefault(document, []):
                    first[document].append(ngram)
    ranking = []
    for document, counted in first.items():
        held: set[int] = set()
        many = 0.0
        for ngram in counted:
            many += repeated(ngram, held) * weights[ngram]
            held |= set(ngram)
        if document not in hidden:
            score = (1 - how.single_key) * many + how.single_key * best[document]
            ranking.append((-score, document))

    # Stage 2: all keys in the text of the best, and single tokens where none stands.
    results = []
    for _, document in sorted(ranking)[: how.fully_score]:
        text = texts[document]
        free = [True] * len(text)
        held, evidence, single = set(), [], 0.0
        for ngram in ordered:
            at = places(ngram, document)
            if at:
                single = max(single, weights[ngram])
            value = repeated(ngram, held) * weights[ngram]
            if value <= 0:
                continue
            taken = []
            for i in at:
                if all(free[i : i + len(ngram)]):
                    free[i : i + len(ngram)] = [False] * len(ngram)
                    taken.append(i)
            if taken:
                held |= set(ngram)
                evidence.append((ngram, value, taken[0] + len(ngram) - 2))
        for token in dict.fromkeys(t for t, open_ in zip(text, free, strict=True) if open_):
            value = unigrams.get(token, 0.0)
            if token in held:
                value *= 1 - how.beta
            if value > 0:
                at = [i for i, t in enumerate(text) if t == token and free[i]]
                evidence.append(((token,), value, at[0] - 1))
        many = sum(value for _, value, _ in evidence)
        score = (1 - how.single_key) * many + how.single_key * single
        results.append((document, score, evidence))
    return sorted(results, key=lambda result: (-result[1], result[0]))
