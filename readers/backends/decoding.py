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

from rag.backend import Tell, Waits


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
    """Ends each row at its first stop text or where nobody waits, and tells its text as it grows.

    What may still change is held back: the bytes of a character that is not whole, and what may be
    the beginning of a stop text. ``rest`` tells it once the row has ended.
    """

    def __init__(
        self,
        stop: Sequence[str],
        text: Callable[[list[int]], str],
        choosing: Choosing,
        tell: Tell | None,
        waits: Waits | None,
    ) -> None:
        """Read the tokens that come after ``choosing.start`` as ``text`` makes text of them."""
        self._stop, self._text, self._choosing = stop, text, choosing
        self._tell, self._waits = tell, waits
        self._ended: list[bool] = []
        self._told: dict[int, str] = {}
        self.dropped: set[int] = set()
        """Rows that nobody waited for."""
        self.raised: Exception | None = None
        """What whoever listens raised."""

    def __call__(self, input_ids: Any, scores: Any, **keywords: Any) -> Any:
        """Which rows have ended: (b,) bool."""
        rows = input_ids[:, self._choosing.start :].tolist()
        self._ended = self._ended or [False] * len(rows)
        try:
            self._look(rows)
        except Exception as error:
            self.raised = error
            raise
        return torch.tensor(self._ended, dtype=torch.bool, device=input_ids.device)

    def _look(self, rows: Sequence[list[int]]) -> None:
        for at, row in enumerate(rows):
            if self._ended[at]:
                continue
            if self._waits is not None and not self._waits(at):
                self.dropped.add(at)
                self._ended[at] = True
            elif self._stop or self._tell is not None:
                text = self._text(row)
                self._ended[at] = any(stop in text for stop in self._stop)
                if not self._ended[at]:
                    self.say(at, text[: len(text) - self._open(text)])

    def say(self, at: int, text: str) -> None:
        """Tell what of ``text``, that of a row so far, was not told before."""
        told = self._told.get(at, "")
        if self._tell is not None and len(text) > len(told) and text.startswith(told):
            self._told[at] = text
            self._tell(at, text[len(told) :])

    def _open(self, text: str) -> int:
        """How many characters at the end may still change, or may begin a stop text."""
        whole = len(text.rstrip("\ufffd"))
        sizes = [
            size
            for stop in self._stop
            for size in range(1, min(len(stop), whole + 1))
            if text.endswith(stop[:size], 0, whole)
        ]
        return len(text) - whole + max(sizes, default=0)


def seed_of(seed: int, prompt: Sequence[int]) -> int:
    """The seed of one row: its prompt's tokens count, its place and its neighbours do not."""
    said = f"{seed} {' '.join(map(str, prompt))}"
    return int.from_bytes(hashlib.sha256(said.encode()).digest())
