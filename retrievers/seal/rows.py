"""Hypotheses of any model of transformers: a row of the batch, and of the cache, for each.

For models whose positions cannot be given (sequence-to-sequence), where one row cannot hold several
hypotheses; see ``rag.retrievers.seal.packed``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rag.retrievers.seal.forward import TOKENS_AT_ONCE, forked, log_p, run

Ints = NDArray[np.int64]


class Rows:
    """Hypotheses (see ``rag.retrievers.seal.forward.Hypotheses``), one a row of the batch."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], *, start: int | None) -> None:
        """Compute the prompts; ``start`` is the first token of a decoder, None without encoder."""
        from transformers import DynamicCache

        self._model, self._start = model, start
        self._owners: Ints = np.arange(len(prompts))  # the prompt of each hypothesis
        longest = max(map(len, prompts))
        ids = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros((len(prompts), longest), np.int64)
        for row, prompt in enumerate(prompts):
            # A decoder goes on at the right end; an encoder's positions count from the left.
            place = slice(len(prompt)) if start is not None else slice(-len(prompt), None)
            ids[row, place], mask[row, place] = prompt, 1
        self._mask = self._tensor(mask)
        self._states: Any = None
        self._cache: Any = DynamicCache()
        if start is not None:
            from transformers import EncoderDecoderCache

            with torch.inference_mode():
                encoder = model.get_encoder()
                self._states = encoder(
                    input_ids=self._tensor(ids), attention_mask=self._mask
                ).last_hidden_state
            self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            ids = np.full((len(prompts), 1), start, np.int64)
        else:
            self._mask = self._mask[:, :0]
        length = ids.shape[1]
        last = np.arange(len(prompts)) * length + length - 1
        self.logits = self._run(self._cache, self._owners, ids, last, first=mask)
        self._prompts = (forked(self._cache), self._mask)

    def grow(
        self, parents: Ints, tokens: Ints, tails: Sequence[Sequence[int] | None]
    ) -> tuple[Any, list[NDArray[np.float64]]]:
        """One token, or one and its tail, behind each of ``parents``; a pass for either kind."""
        free = np.array([i for i, tail in enumerate(tails) if tail is None], np.int64)
        forced = [i for i, tail in enumerate(tails) if tail is not None]
        given = [[int(tokens[i]), *tail] for i, tail in enumerate(tails) if tail is not None]
        found = self._follow(self._cache, self._mask, self._owners, parents[forced], given)
        logits = self.logits[:0]
        if len(free):
            rows = parents[free]
            self._cache = self._chosen(self._cache, rows, self._owners)
            if self._start is None:
                self._mask = self._mask[self._tensor(rows)]
            self._owners = self._owners[rows]
            logits = self._run(self._cache, self._owners, tokens[free, None], np.arange(len(free)))
        return logits, found

    def score(self, prompts: Ints, ngrams: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """Sums log p(n-gram | prompt), in batches of one length."""
        if not len(ngrams):
            return np.zeros(0)
        cache, mask = self._prompts
        total = log_p(self.logits, prompts.tolist(), [ngram[0] for ngram in ngrams])
        owners = np.arange(len(self.logits))
        for batch in self._batches(ngrams):
            some = [ngrams[i] for i in batch]
            found = self._follow(cache, mask, owners, prompts[batch], some)
            total[batch] += [each.sum() for each in found]
        return total

    def _batches(self, ngrams: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of n-grams of two tokens or more, alike in length."""
        order = sorted(range(len(ngrams)), key=lambda i: len(ngrams[i]))
        order = [i for i in order if len(ngrams[i]) > 1]
        at = 0
        while at < len(order):
            length = len(ngrams[order[at]])
            most = max(1, TOKENS_AT_ONCE // (length - 1))
            batch = [i for i in order[at : at + most] if len(ngrams[i]) == length]
            yield batch
            at += len(batch)

    def _follow(
        self,
        cache: Any,
        mask: Any,
        owners: Ints,
        rows: Ints,
        sequences: Sequence[Sequence[int]],
    ) -> list[NDArray[np.float64]]:
        """Log-probabilities of all tokens but the first of each sequence behind a row of a cache.

        Sequences are padded at their right ends, which their tokens do not see.
        """
        if not sequences:
            return []
        sizes = [len(sequence) - 1 for sequence in sequences]
        ids = np.zeros((len(sequences), max(sizes)), np.int64)
        places: list[int] = []
        for row, sequence in enumerate(sequences):
            ids[row, : sizes[row]] = sequence[:-1]
            places += range(row * ids.shape[1], row * ids.shape[1] + sizes[row])
        chosen = self._chosen(forked(cache), rows, owners)
        here = self._mask
        if self._start is None:
            self._mask = mask[self._tensor(rows)]
        logits = self._run(chosen, owners[rows], ids, np.asarray(places))
        self._mask = here
        wanted = [token for sequence in sequences for token in sequence[1:]]
        found = log_p(logits, range(len(wanted)), wanted)
        return np.split(found, np.cumsum(sizes)[:-1])

    def _chosen(self, cache: Any, rows: Ints, owners: Ints) -> Any:
        """The cache of these rows, which may repeat."""
        index = self._tensor(rows)
        if self._start is None:
            cache.batch_select_indices(index)
            return cache
        cache.self_attention_cache.batch_select_indices(index)
        # Rows of one prompt are alike in what they see of it: mostly nothing is to be moved.
        if not np.array_equal(owners, owners[rows]):
            cache.cross_attention_cache.batch_select_indices(index)
        return cache

    def _run(
        self, cache: Any, owners: Ints, ids: Ints, places: Ints, first: Ints | None = None
    ) -> Any:
        """Logits at ``places`` of ``ids``, behind what is in the cache."""
        given: dict[str, Any] = {}
        tokens = self._tensor(ids)
        if self._start is not None:
            from transformers.modeling_outputs import BaseModelOutput

            index = self._tensor(owners)
            given["decoder_input_ids"] = tokens
            given["encoder_outputs"] = BaseModelOutput(last_hidden_state=self._states[index])
            given["attention_mask"] = self._mask[index]
        else:
            new = torch.ones_like(tokens) if first is None else self._tensor(first)
            self._mask = torch.cat([self._mask, new], 1)
            given["input_ids"], given["attention_mask"] = tokens, self._mask
            positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            if "position_ids" in self._takes:
                given["position_ids"] = positions
        return run(self._model, cache, places, **given)

    @property
    def _takes(self) -> Any:
        import inspect

        return inspect.signature(self._model.forward).parameters

    def _tensor(self, array: Ints) -> Any:
        return torch.as_tensor(array, device=self._model.device)
