"""One forward pass of a transformers model, its cache, and the log-probabilities it gives."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

TOKENS_AT_ONCE = 512
"""The most positions whose distributions one pass makes: 100 MB for 50,000 tokens of vocabulary."""


class Hypotheses(Protocol):
    """What a model holds of the hypotheses of one search: their caches, one for each.

    They begin as the prompts it was opened with, in order, whose distributions are ``logits``
    (prompts, V) float32. Numbers of hypotheses are valid until the next ``grow``.
    """

    logits: Any

    def grow(
        self,
        parents: NDArray[np.int64],
        tokens: NDArray[np.int64],
        tails: Sequence[Sequence[int] | None],
    ) -> tuple[Any, list[NDArray[np.float64]]]:
        """Put one token behind each of n hypotheses, ``parents``, which may repeat.

        ``tails[i]`` None: the result is a hypothesis to go on with. They are the hypotheses from
        now on, numbered in order, and their logits (how many, V) float32 come back.
        ``tails[i]`` of one token or more: nothing else can follow. The log-probability of each of
        its tokens comes back, in order of i, from the same pass.
        """

    def score(
        self, prompts: NDArray[np.int64], ngrams: Sequence[Sequence[int]]
    ) -> NDArray[np.float64]:
        """Sums log p(n-gram | prompt), (n,), for n-grams that each follow one of the first prompts.

        The hypotheses stay as they are.
        """


@contextmanager
def at(head: Any, places: Any) -> Iterator[None]:
    """Let only some positions through the model's last layer: ``places`` of (batch x length).

    The logits are (1, places, V) meanwhile. A vocabulary is 100 times as wide as what is needed of
    most positions.
    """

    def chosen(module: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = given[0]
        return (hidden.reshape(-1, hidden.shape[-1])[places][None], *given[1:])

    handle = head.register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()


def run(model: Any, cache: Any, places: NDArray[np.int64], **given: Any) -> Any:
    """The logits at ``places`` of (batch x length), (places, V) float32; ``cache`` grows."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    chosen = torch.as_tensor(places, device=model.device)
    with torch.inference_mode(), at(model.get_output_embeddings(), chosen):
        logits = model(**given, **{name: cache}, use_cache=True).logits
    return logits[0].float()


def log_p(logits: Any, rows: Sequence[int], tokens: Sequence[int]) -> NDArray[np.float64]:
    """Values log softmax(logits)[rows[i], tokens[i]] for each i: float64, computed in float32."""
    with torch.inference_mode():
        at_row = torch.as_tensor(rows, dtype=torch.long, device=logits.device)
        at_token = torch.as_tensor(tokens, dtype=torch.long, device=logits.device)
        found = logits[at_row, at_token] - torch.logsumexp(logits, -1)[at_row]
        return np.asarray(found.cpu().numpy(), np.float64)


def forked(cache: Any) -> Any:
    """A cache that grows without the given one: its tensors are shared, which are never written."""
    new = copy.copy(cache)
    if hasattr(cache, "self_attention_cache"):
        new.self_attention_cache = forked(cache.self_attention_cache)
        new.cross_attention_cache = forked(cache.cross_attention_cache)
        new.is_updated = dict(cache.is_updated)
    else:
        new.layers = [copy.copy(layer) for layer in cache.layers]
    return new
