"""Keys: the n-grams that a model made of one question, and how likely it holds each of them.

The decoder writes them and the scorer reads them; nothing else passes between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput

BODY, TITLE, SPAN = 0, 1, 2
"""Kinds of keys: generated text, a generated title, a run of words of the question."""


@dataclass(frozen=True, eq=False)
class Keys:
    """The n-grams of one question, n of them, each at least one token long and no two alike.

    offsets (n + 1,) int64, tokens (offsets[-1],) int32: n-gram i is
        ``tokens[offsets[i]:offsets[i + 1]]``, as token ids of the index. A TITLE ends with the
        token that ends a title, and stands for itself at the start of a document only.
    log_probs (n,) float64: log p(n-gram | question), natural, summed over the n-gram's tokens;
        markers that the model's format puts around an n-gram are not counted.
    kinds (n,) uint8: BODY, TITLE or SPAN.
    base (n,) float64 or None: log p(n-gram | no question), which the weights "pmi" need.
    unigrams (V,) float32 or None: log p(token | question) of the first token of a text, V being
        the model's vocabulary; None where single tokens are not to be scored.
    base_unigrams (V,) float32 or None: the same without a question, for "pmi".
    """

    offsets: NDArray[np.int64]
    tokens: NDArray[np.int32]
    log_probs: NDArray[np.float64]
    kinds: NDArray[np.uint8]
    base: NDArray[np.float64] | None = None
    unigrams: NDArray[np.float32] | None = None
    base_unigrams: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        ngrams: Sequence[Sequence[int]],
        log_probs: Sequence[float] | NDArray[Any],
        *,
        kinds: Sequence[int] | NDArray[Any] | None = None,
        base: Sequence[float] | NDArray[Any] | None = None,
        unigrams: NDArray[Any] | None = None,
        base_unigrams: NDArray[Any] | None = None,
    ) -> Keys:
        """Keys from ``ngrams`` as lists of token ids; ``kinds`` is BODY for all by default."""
        offsets = np.zeros(len(ngrams) + 1, np.int64)
        np.cumsum([len(ngram) for ngram in ngrams], out=offsets[1:])
        return cls(
            offsets,
            np.fromiter((token for ngram in ngrams for token in ngram), np.int32, offsets[-1]),
            np.asarray(log_probs, np.float64),
            np.full(len(ngrams), BODY, np.uint8) if kinds is None else np.asarray(kinds, np.uint8),
            None if base is None else np.asarray(base, np.float64),
            None if unigrams is None else np.asarray(unigrams, np.float32),
            None if base_unigrams is None else np.asarray(base_unigrams, np.float32),
        )

    def __post_init__(self) -> None:
        """Raise InvalidInput where the arrays do not fit one another."""
        n = len(self)
        if n < 0 or self.offsets[0] != 0 or self.offsets[-1] != len(self.tokens):
            raise InvalidInput(
                f"keys: offsets must run from 0 to the number of tokens, {len(self.tokens)}"
            )
        if (np.diff(self.offsets) < 1).any():
            raise InvalidInput("keys: an n-gram has no token; leave it out")
        for name in ("log_probs", "kinds", "base"):
            found = getattr(self, name)
            if found is not None and found.shape != (n,):
                raise InvalidInput(
                    f"keys: {name} has the shape {found.shape}, but there are {n} n-grams"
                )

    def __len__(self) -> int:
        """The number of n-grams."""
        return len(self.offsets) - 1

    def ngram(self, i: int) -> list[int]:
        """The token ids of n-gram ``i``."""
        ids: list[int] = self.tokens[self.offsets[i] : self.offsets[i + 1]].tolist()
        return ids

    def ngrams(self) -> list[list[int]]:
        """The token ids of every n-gram."""
        return [self.ngram(i) for i in range(len(self))]
