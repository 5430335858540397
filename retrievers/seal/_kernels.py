"""Compiled loops that score documents by keys (``rag.compiled``).

Keys come by falling weight, and their *rank* is their number. A rank's tokens are
``tokens[offsets[rank] : offsets[rank + 1]]``; token ids are below the length of ``root``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""


@kernel
def distinct(offsets: Arrays, tokens: Arrays, out_offsets: Arrays, out: Arrays) -> None:
    """The tokens of each key without repeats, in the same layout."""
    end = 0
    for key in range(len(offsets) - 1):
        begin = end
        for i in range(offsets[key], offsets[key + 1]):
            known = False
            for j in range(begin, end):
                known = known or out[j] == tokens[i]
            if not known:
                out[end] = tokens[i]
                end += 1
        out_offsets[key + 1] = end


@kernel
def by_document(documents: Arrays) -> Arrays:
    """The stable order by ascending document: a radix sort, eleven bits at a time."""
    count = len(documents)
    order, other = np.arange(count), np.empty(count, np.int64)
    top = np.int64(0)
    for i in range(count):
        top = max(top, documents[i])
    shift = 0
    while (top >> shift) > 0:
        starts = np.zeros(2049, np.int64)
        for i in range(count):
            starts[((documents[i] >> shift) & 2047) + 1] += 1
        for digit in range(2048):
            starts[digit + 1] += starts[digit]
        for i in range(count):
            digit = (documents[order[i]] >> shift) & 2047
            other[starts[digit]] = order[i]
            starts[digit] += 1
        order, other = other, order
        shift += 11
    return order


@kernel
def _kept_part(
    begin: Number, end: Number, unique: Arrays, anchored: Number, marks: Arrays, serial: Number
) -> Number:
    """The part of a key's distinct tokens that no better key of the document held.

    A title holds one more, the document's start, as SEAL stores titles with the marker before them.
    """
    new = np.int64(anchored)
    for i in range(begin, end):
        new += marks[unique[i]] != serial
    return new / (end - begin + np.int64(anchored))


@kernel
def found(
    order: Arrays,
    ranks: Arrays,
    documents: Arrays,
    positions: Arrays,
    lengths: Arrays,
    unique_offsets: Arrays,
    unique: Arrays,
    titles: Arrays,
    weights: Arrays,
    beta: Number,
    marks: Arrays,
    out_documents: Arrays,
    out_many: Arrays,
    out_one: Arrays,
) -> int:
    """Documents by the occurrences of keys in them; returns how many there are.

    ``order`` sorts occurrences by (document, rank, position). A key counts once, if one of its
    occurrences meets no position of a better key's.

    Given:
        order, ranks, documents, positions: the occurrences; a position is the last token's.
        lengths, unique_offsets, unique, titles, weights: the keys.
        beta: as in ``Scoring``.
        marks: zeros, one a token id.
        out_documents, out_many, out_one: ascending documents, the sum over keys, the best key.
    """
    last = np.int64(-1)
    for i in range(len(positions)):
        last = max(last, positions[i])
    covered = np.zeros(last + 1, np.int32)
    count, at = 0, 0
    while at < len(order):
        document = documents[order[at]]
        serial = np.int32(count + 1)
        many, one = 0.0, 0.0
        while at < len(order) and documents[order[at]] == document:
            rank = ranks[order[at]]
            one = max(one, weights[rank])
            placed = False
            while at < len(order) and documents[order[at]] == document and ranks[order[at]] == rank:
                end = positions[order[at]] + 1
                free = True
                for i in range(end - lengths[rank], end):
                    free = free and covered[i] != serial
                if free:
                    placed = True
                    for i in range(end - lengths[rank], end):
                        covered[i] = serial
                at += 1
            if placed:
                begin, end = unique_offsets[rank], unique_offsets[rank + 1]
                part = _kept_part(begin, end, unique, titles[rank], marks, serial)
                many += (1.0 - beta + beta * part) * weights[rank]
                for i in range(begin, end):
                    marks[unique[i]] = serial
        out_documents[count], out_many[count], out_one[count] = document, many, one
        count += 1
    return count


@kernel
def _slot(table: Arrays, node: Number, token: Number, limit: Number) -> Number:
    """Where the pair (node, token) stands in a hash table of a power of two, or a free place."""
    pair = np.int64(node) * limit + np.int64(token)
    mixed = np.uint64(pair) * np.uint64(0x9E3779B97F4A7C15)
    mask = np.int64(len(table) - 1)
    at = np.int64(mixed >> np.uint64(32)) & mask
    while table[at] != -1 and table[at] != pair:
        at = (at + 1) & mask
    return at


@kernel
def trie(
    offsets: Arrays,
    tokens: Arrays,
    titles: Arrays,
    root: Arrays,
    pairs: Arrays,
    children: Arrays,
    inner: Arrays,
    anywhere: Arrays,
    at_start: Arrays,
) -> None:
    """A trie of the keys.

    Given:
        offsets, tokens, titles: the keys, each with at least one token.
        root: -1, one a token id; becomes the node of a first token.
        pairs, children: -1; a hash table of (node, token) and the node below.
        inner: False, one a node; becomes whether there are nodes below.
        anywhere, at_start: -1, one a node; become the rank of the key that ends there, and of the
            title that does.
    """
    nodes, limit = 0, np.int64(len(root))
    for rank in range(len(offsets) - 1):
        first = tokens[offsets[rank]]
        if root[first] < 0:
            root[first] = nodes
            nodes += 1
        node = root[first]
        for i in range(offsets[rank] + 1, offsets[rank + 1]):
            inner[node] = True
            at = _slot(pairs, node, tokens[i], limit)
            if pairs[at] < 0:
                pairs[at] = np.int64(node) * limit + np.int64(tokens[i])
                children[at] = nodes
                nodes += 1
            node = children[at]
        ends = at_start if titles[rank] else anywhere
        if ends[node] < 0:
            ends[node] = rank


@kernel
def read(
    which: Arrays,
    text_offsets: Arrays,
    text: Arrays,
    root: Arrays,
    pairs: Arrays,
    children: Arrays,
    inner: Arrays,
    anywhere: Arrays,
    at_start: Arrays,
    lengths: Arrays,
    unique_offsets: Arrays,
    unique: Arrays,
    titles: Arrays,
    weights: Arrays,
    unigrams: Arrays,
    beta: Number,
    out_many: Arrays,
    out_one: Arrays,
    out_counts: Arrays,
    evidence: Arrays,
    out_ranks: Arrays,
    out_tokens: Arrays,
    out_weights: Arrays,
    out_positions: Arrays,
) -> None:
    """Score documents by all keys in their text, and single tokens where no key stands.

    Keys are placed by rank, each at all its places that are free yet, from the left.

    Given:
        which: (m,) the documents to read, by their place in ``text_offsets``.
        text_offsets, text: tokens of documents; ids are below the length of ``root``.
        root, pairs, children, inner, anywhere, at_start: what ``trie`` made.
        lengths, unique_offsets, unique, titles, weights: the keys.
        unigrams: the weight of each token id, 0 for none; or empty, for none at all.
        beta: as in ``Scoring``.
        out_many, out_one: (m,) the sum over keys and tokens; the best key.
        out_counts: (m,) how many keys and tokens count.
        evidence: (m + 1,) where in the next four each document's begin; or empty, for none.
        out_ranks, out_tokens, out_weights, out_positions: what counts: the key's rank and -1, or
            -1 and the single token; what it adds; where its first place ends.
    """
    keys, longest = len(lengths), np.int64(0)
    for i in which:
        longest = max(longest, text_offsets[i + 1] - text_offsets[i])
    covered = np.zeros(longest, np.int32)
    marks, seen = np.zeros(len(root), np.int32), np.zeros(len(root), np.int32)
    # The places where a key matches, from the left: a linked list for each rank.
    head, tail = np.full(keys, -1, np.int64), np.empty(keys, np.int64)
    places, following = np.empty(1024, np.int64), np.empty(1024, np.int64)
    limit = np.int64(len(root))
    for d in range(len(which)):
        serial = np.int32(d + 1)
        origin, stop = text_offsets[which[d]], text_offsets[which[d] + 1]
        matches, lowest, highest = 0, keys, -1
        for start in range(origin, stop):
            node, i = root[text[start]], start
            while node >= 0:
                for ends in range(2):
                    rank = anywhere[node]
                    if ends == 1:
                        rank = at_start[node] if start == origin else -1
                    if rank >= 0:
                        if matches == len(places):
                            places = np.concatenate((places, places))
                            following = np.concatenate((following, following))
                        places[matches], following[matches] = start - origin, -1
                        if head[rank] < 0:
                            head[rank] = matches
                        else:
                            following[tail[rank]] = matches
                        tail[rank] = matches
                        matches += 1
                        lowest, highest = min(lowest, rank), max(highest, rank)
                i += 1
                if i == stop or not inner[node]:
                    break
                at = _slot(pairs, node, text[i], limit)
                node = children[at]
        many, count = 0.0, np.int64(0)
        one = weights[lowest] if lowest < keys else 0.0
        for rank in range(lowest, highest + 1):
            match = head[rank]
            if match < 0:
                continue
            head[rank] = -1
            begin, end = unique_offsets[rank], unique_offsets[rank + 1]
            part = _kept_part(begin, end, unique, titles[rank], marks, serial)
            value = (1.0 - beta + beta * part) * weights[rank]
            if value <= 0.0:
                continue
            first = np.int64(-1)
            while match >= 0:
                start = places[match]
                free = True
                for i in range(start, start + lengths[rank]):
                    free = free and covered[i] != serial
                if free:
                    for i in range(start, start + lengths[rank]):
                        covered[i] = serial
                    if first < 0:
                        first = start
                match = following[match]
            if first < 0:
                continue
            for i in range(begin, end):
                marks[unique[i]] = serial
            many += value
            if len(evidence):
                at = evidence[d] + count
                out_ranks[at], out_tokens[at] = rank, -1
                out_weights[at], out_positions[at] = value, first + lengths[rank] - 1
            count += 1
        if len(unigrams):
            for i in range(stop - origin):
                token = text[origin + i]
                if covered[i] == serial or seen[token] == serial or unigrams[token] <= 0.0:
                    continue
                seen[token] = serial
                value = unigrams[token]
                if marks[token] == serial:
                    value *= 1.0 - beta
                if value == 0.0:
                    continue
                many += value
                if len(evidence):
                    at = evidence[d] + count
                    out_ranks[at], out_tokens[at] = -1, token
                    out_weights[at], out_positions[at] = value, i
                count += 1
        out_many[d], out_one[d], out_counts[d] = many, one, count
