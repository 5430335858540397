"""Constrained beam search as it is defined, and slowly: whole forward passes, plain lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Ngram = tuple[int, ...]


class Literal:
    """A model of transformers that computes every distribution from its beginning."""

    def __init__(self, model: Any, documents: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._documents = [list(document) for document in documents]

    def distribution(self, prompt: Sequence[int], written: Sequence[int]) -> Any:
        """log p of each token after ``written``, (V,) float64."""
        import torch

        model = self._model
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                start = model.config.decoder_start_token_id
                out = model(
                    input_ids=torch.tensor([list(prompt)]),
                    decoder_input_ids=torch.tensor([[start, *written]]),
                    use_cache=False,
                )
            else:
                out = model(input_ids=torch.tensor([[*prompt, *written]]), use_cache=False)
        return out.logits[0, -1].double().log_softmax(-1).numpy()

    def score(self, prompt: Sequence[int], ngram: Sequence[int]) -> float:
        return float(
            sum(self.distribution(prompt, ngram[:at])[ngram[at]] for at in range(len(ngram)))
        )

    def allowed(self, written: Ngram, *, anchored: bool) -> list[int]:
        """The tokens behind ``written`` somewhere, or where a document starts with it."""
        size, found = len(written), set()
        for document in self._documents:
            for at in range(1 if anchored else len(document) - size):
                if tuple(document[at : at + size]) == written and at + size < len(document):
                    found.add(document[at + size])
        return sorted(found)

    def count(self, ngram: Sequence[int]) -> int:
        size = len(ngram)
        return sum(
            document[at : at + size] == list(ngram)
            for document in self._documents
            for at in range(len(document) - size + 1)
        )

    def search(
        self, prompt: Sequence[int], beam: int, length: int, *, end: int | None, anchored: bool
    ) -> dict[Ngram, float]:
        """The history of one search."""
        history = dict[Ngram, float]()
        hypotheses: list[tuple[float, Ngram]] = [(0.0, ())]
        for _ in range(length):
            candidates = []
            for at, (score, written) in enumerate(hypotheses):
                log_probs = self.distribution(prompt, written)
                candidates += [
                    (-(score + log_probs[token]), at, token, written)
                    for token in self.allowed(written, anchored=anchored)
                    if log_probs[token] > -np.inf
                ]
            best = [(-score, (*written, token)) for score, _, token, written in sorted(candidates)]
            best = best[: 2 * beam]
            history.update((ngram, score) for score, ngram in best)
            hypotheses = [each for each in best if each[1][-1] != end][:beam]
        return history
