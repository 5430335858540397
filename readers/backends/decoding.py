"""How a model of transformers writes: which token comes next, and when a row has ended.

Both classes are called by ``model.generate`` between two tokens, with all rows of a batch. No
row's result depends on another row.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch


class Choosing:
    """Chooses the next token of each row, and keeps its log-probability.

    With logits ``z`` (after the tokens that the model forces or forbids) the log-probability that
    is kept is ``log softmax(z)[token]``, at every temperature: what the model thought of the token,
    not how it was drawn. Temperature 0 takes the largest logit; ``t > 0`` draws from
    ``softmax(z / t)`` by inverting its distribution function at one uniform number a step, which
    comes from the row's own generator.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        """Choose for ``len(seeds)`` rows."""
        self._temperature = temperature
        self._draws = [random.Random(seed) for seed in seeds]
        self._kept: list[Any] = []
        self.start = 0  # where the written tokens begin in the rows of `generate`

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores (b, vocabulary) that leave only the chosen tokens."""
        if not self._kept:
            self.start = input_ids.shape[1]
        tokens = self._drawn(scores) if self._temperature else scores.argmax(-1, keepdim=True)
        self._kept.append(torch.log_softmax(scores, dim=-1).gather(1, tokens))  # (b, 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)

    def _drawn(self, scores: Any) -> Any:
        # In float64, which not every device has: the sum over a large vocabulary has to end at 1.
        heat = scores.cpu().double()
        heat = (heat - heat.amax(-1, keepdim=True)) / self._temperature
        upto = torch.softmax(heat, -1).cumsum(-1)  # (b, vocabulary)
        draws = torch.tensor([[one.random()] for one in self._draws], dtype=upto.dtype)
        tokens = torch.searchsorted(upto, draws * upto[:, -1:], right=True)
        return tokens.clamp_(max=scores.shape[-1] - 1).to(scores.device)

    @property
    def logprobs(self) -> list[list[float]]:
        """The log-probabilities of the tokens written: (b, steps)."""
        found: list[list[float]] = torch.cat(self._kept, 1).tolist()
        return found


class Watching:
    """Ends each row at its first stop text, and tells the text so far to who wants it."""

    def __init__(
        self,
        stop: Sequence[str],
        texts: Callable[[list[int]], str],
        choosing: Choosing,
        tell: Callable[[str], None] | None,
    ) -> None:
        """Read the tokens that come after ``choosing.start`` as ``texts`` makes text of them."""
        self._stop, self._text, self._choosing, self._tell = stop, texts, choosing, tell
        self._ended: list[bool] = []

    def __call__(self, input_ids: Any, scores: Any, **keywords: Any) -> Any:
        """Which rows have ended: (b,) bool."""
        rows = input_ids[:, self._choosing.start :].tolist()
        self._ended = self._ended or [False] * len(rows)
        for at, row in enumerate(rows):
            if not self._ended[at]:
                text = self._text(row)
                self._ended[at] = any(stop in text for stop in self._stop)
                if self._tell is not None:
                    self._tell(text)
        return torch.tensor(self._ended, dtype=torch.bool, device=input_ids.device)


def seed_of(seed: int, prompt: Sequence[int]) -> int:
    """The seed of one row: its prompt's tokens count, its place and its neighbours do not."""
    said = f"{seed} {' '.join(map(str, prompt))}"
    return int.from_bytes(hashlib.sha256(said.encode()).digest())
