"""The two towers of a VDR as one module, which may be one and the same."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Towers(nn.Module):  # type: ignore[misc]
    """Questions and passages to vectors, (n, V) and (m, V), all terms of them."""

    def __init__(self, questions: nn.Module, passages: nn.Module) -> None:
        """Hold the towers; the weights of a shared one are there once."""
        super().__init__()
        self.questions, self.passages = questions, passages

    def forward(self, questions: dict[str, Tensor], passages: dict[str, Tensor]) -> Any:
        """Encode a batch of tokens for each tower."""
        return self.questions(**questions).pooler_output, self.passages(**passages).pooler_output

    def gradient_checkpointing_enable(self) -> None:
        """Compute activations of the BERTs again in the backward pass."""
        for tower in {id(t): t for t in (self.questions, self.passages)}.values():
            tower.bert_model.gradient_checkpointing_enable()
