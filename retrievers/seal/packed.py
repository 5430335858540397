"""All hypotheses of a question in one row of a causal model's batch.

A cache with a row for each hypothesis holds the prompt as often as there are hypotheses, and is
copied in a new order at every step. Here a question has one row. Each token that was ever computed
keeps its place in the row, and an attention mask lets a token see its own ancestors only: the
prompt once, then the tokens of its hypothesis. So nothing is copied or computed twice: two prompts
share their beginning, n-grams to be scored share theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rag.retrievers.seal.forward import TOKENS_AT_ONCE, forked, log_p, run

A_PASS = 24
"""What a pass costs beside its positions, in positions: seen with 135 M parameters on a CPU."""

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


class Trie:
    """Token sequences with their common beginnings once: nodes, each after its parent.

    tokens, parents (-1: a first token), roots: lists over nodes; sequences of different ``root``
    share nothing.
    """

    def __init__(self) -> None:
        """Begin without a node."""
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self.roots: list[int] = []
        self._nodes: dict[tuple[int, int, int], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, root: int, sequence: Sequence[int]) -> list[int]:
        """The node of each token of ``sequence``."""
        path, parent = [], -1
        for token in sequence:
            key = (root, parent, token)
            node = self._nodes.setdefault(key, len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self.parents.append(parent)
                self.roots.append(root)
            path.append(node)
            parent = node
        return path


class Packed:
    """Hypotheses (see ``rag.retrievers.seal.forward.Hypotheses``) in one row a group of prompts."""

    def __init__(self, model: Any, groups: Sequence[Sequence[Sequence[int]]]) -> None:
        """Compute the prompts, each a list of token ids, of every group (a question)."""
        from transformers import DynamicCache

        self._model = model
        # Without a config: layers of sliding windows would forget by place, not by position.
        self._cache = DynamicCache()
        self._seen: Bools = np.zeros((len(groups), 0), bool)
        self._depths: Ints = np.zeros(len(groups), np.int64)
        self._rows: Ints = np.arange(len(groups))
        trie = Trie()
        ends = [trie.add(row, prompt)[-1] for row, group in enumerate(groups) for prompt in group]
        self.logits = self._compute(trie, np.asarray(ends))
        self._prompts = (forked(self._cache), self._seen, self._depths, self._rows)

    def grow(
        self, parents: Ints, tokens: Ints, tails: Sequence[Sequence[int] | None]
    ) -> tuple[Any, list[NDArray[np.float64]]]:
        """One token, or one and its tail, behind each of ``parents``."""
        free = np.array([i for i, tail in enumerate(tails) if tail is None], np.int64)
        forced = np.array([i for i, tail in enumerate(tails) if tail is not None], np.int64)
        if not (len(free) and len(forced) and self._apart(parents, free, forced, tails)):
            return self._grow(parents, tokens, tails)
        here = (self._cache, self._seen, self._depths, self._rows)
        self._cache = forked(self._cache)
        _, found = self._grow(parents[forced], tokens[forced], [tails[i] for i in forced])
        self._cache, self._seen, self._depths, self._rows = here
        logits, _ = self._grow(parents[free], tokens[free], [None] * len(free))
        return logits, found

    def _apart(
        self,
        parents: Ints,
        free: Ints,
        forced: Ints,
        tails: Sequence[Sequence[int] | None],
    ) -> bool:
        """Whether two passes take less than one, whose rows would all be as long as the longest."""
        sizes = np.array([len(tail or (0,)) for tail in tails])

        def positions(some: Ints) -> int:
            counts = np.bincount(self._rows[parents[some]], sizes[some])
            return int(counts.max()) * int((counts > 0).sum())

        both = np.concatenate([free, forced])
        return positions(free) + positions(forced) + A_PASS < positions(both)

    def _grow(
        self, parents: Ints, tokens: Ints, tails: Sequence[Sequence[int] | None]
    ) -> tuple[Any, list[NDArray[np.float64]]]:
        self._take(parents)
        trie = Trie()
        free: list[int] = []
        forced: list[int] = []  # the nodes whose next tokens are a tail's
        for at, (token, tail) in enumerate(zip(tokens.tolist(), tails, strict=True)):
            # Each hypothesis is a root of its own, so nothing is merged that was told apart.
            path = trie.add(at, [token, *tail[:-1]] if tail else [token])
            if tail is None:
                free.append(path[0])
            else:
                forced += path
        wanted = np.asarray([*free, *forced], np.int64)
        logits = self._compute(trie, wanted, keep=len(free))
        given = [tail for tail in tails if tail is not None]
        followers = [token for tail in given for token in tail]
        found = log_p(logits[len(free) :], range(len(followers)), followers)
        cuts = np.cumsum([len(tail) for tail in given])[:-1]
        return logits[: len(free)], np.split(found, cuts) if given else []

    def score(self, prompts: Ints, ngrams: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Sums log p(n-gram | prompt), by a trie of the n-grams of each prompt."""
        total = np.zeros(len(ngrams))
        firsts = [ngram[0] for ngram in ngrams]
        if len(ngrams):
            total += log_p(self.logits, prompts.tolist(), firsts)
        order = sorted(range(len(ngrams)), key=lambda i: (prompts[i], list(ngrams[i])))
        order = [i for i in order if len(ngrams[i]) > 1]
        here = (self._cache, self._seen, self._depths, self._rows)
        at = 0
        while at < len(order):
            self._cache = forked(self._prompts[0])
            self._seen, self._depths, self._rows = self._prompts[1:]
            trie, begin = Trie(), at
            edges: list[tuple[int, int, int]] = []  # n-gram, node, what follows it
            while at < len(order) and (len(trie) < TOKENS_AT_ONCE or at == begin):
                ngram = ngrams[order[at]]
                path = trie.add(int(prompts[order[at]]), ngram[:-1])
                edges += [(order[at], *pair) for pair in zip(path, ngram[1:], strict=True)]
                at += 1
            used, roots = np.unique(trie.roots, return_inverse=True)
            trie.roots = roots.tolist()
            self._take(used)
            logits = self._compute(trie, np.arange(len(trie)))
            which, nodes, tokens = zip(*edges, strict=True)
            np.add.at(total, list(which), log_p(logits, nodes, tokens))
        self._cache, self._seen, self._depths, self._rows = here
        return total

    def _take(self, hypotheses: Ints) -> None:
        """Go on with these; the rows that none of them is in are dropped from the cache."""
        self._seen, self._depths = self._seen[hypotheses], self._depths[hypotheses]
        before = self._cache.layers[0].keys.shape[0]
        kept, self._rows = np.unique(self._rows[hypotheses], return_inverse=True)
        if len(kept) < before:
            self._cache.batch_select_indices(torch.as_tensor(kept, device=self._model.device))

    def _compute(self, trie: Trie, wanted: Ints, keep: int | None = None) -> Any:
        """Logits of the nodes ``wanted``, whose first ``keep`` are the hypotheses from now on.

        The roots of the trie are numbers of hypotheses.
        """
        n, seen_before = len(trie), self._seen.shape[1]
        roots, parents = np.asarray(trie.roots), np.asarray(trie.parents)
        rows = self._rows[roots]
        batch = int(rows.max()) + 1
        counts = np.bincount(rows, minlength=batch)
        order = np.argsort(rows, kind="stable")
        places = np.empty(n, np.int64)
        places[order] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
        length = int(counts.max())
        seen = np.zeros((n, seen_before + length), bool)
        seen[:, :seen_before] = self._seen[roots]
        seen[np.arange(n), seen_before + places] = True
        depths = self._depths[roots]
        for node in np.flatnonzero(parents >= 0):
            seen[node] |= seen[parents[node]]
            depths[node] = depths[parents[node]] + 1
        logits = self._pass(rows, places, np.asarray(trie.tokens), depths, seen, batch, wanted)
        live = wanted[:keep]
        self._seen, self._depths, self._rows = seen[live], depths[live] + 1, rows[live]
        return logits

    def _pass(
        self,
        rows: Ints,
        places: Ints,
        tokens: Ints,
        depths: Ints,
        seen: Bools,
        batch: int,
        wanted: Ints,
    ) -> Any:
        length, device = int(places.max()) + 1, self._model.device
        ids = np.zeros((2, batch, length), np.int64)
        ids[0, rows, places], ids[1, rows, places] = tokens, depths
        hidden = torch.finfo(self._model.dtype).min
        # Not minus infinity: the softmax of a place that pads would be no number.
        mask = np.full((batch, 1, length, seen.shape[1]), hidden, np.float32)
        mask[rows, 0, places] = np.where(seen, np.float32(0), np.float32(hidden))
        given = torch.from_numpy(ids).to(device)
        return run(
            self._model,
            self._cache,
            rows[wanted] * length + places[wanted],
            input_ids=given[0],
            position_ids=given[1],
            attention_mask=torch.from_numpy(mask).to(device, self._model.dtype),
        )
