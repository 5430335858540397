"""The objective ``seal``: a model learns to write n-grams of the passages that answer a question.

After SEAL (Bevilacqua et al., NeurIPS 2022): for a question and one of its passages, spans of the
passage are drawn by how much they overlap with the question, and the model learns to write them
behind the prompt for a text; titles behind the prompt for a title. ``rag.training.seal_spans``
draws, ``seal_batch`` makes batches, ``seal_score`` asks the held-back questions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rag.training.objective import Objective, Task
from rag.training.recipe import Frozen

if TYPE_CHECKING:
    from rag.training.data import Split


class LoRA(Frozen):
    """Train matrices of a low rank beside the model's own (Hu et al., 2022); merged at the end."""

    rank: int = Field(16, gt=0, description="Of the matrices.")
    alpha: float = Field(32.0, gt=0, description="What they are scaled by: alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of what goes into them.")


class Seal(Objective, name="seal"):
    """Write n-grams of the passages that answer a question."""

    words: int = Field(10, gt=0, description="Words of a span.")
    spans: int = Field(10, gt=0, description="Spans drawn of a passage for a question.")
    titles: int = Field(
        3, ge=0, description="Titles drawn beside them: how often a span's weight a title has."
    )
    temperature: float = Field(
        1.0, gt=0, description="Spans are drawn by the softmax of their overlap divided by this."
    )
    unsupervised: int = Field(
        0,
        ge=0,
        description="Passages of the training side that are learned without a question in "
        "a batch, by a span of their own in its place.",
    )
    smoothing: float = Field(0.1, ge=0, lt=1, description="Smoothing of labels.")
    lora: LoRA | None = Field(None, description="Train low-rank matrices only; default: all.")
    beam: int = Field(10, gt=0, description="Hypotheses, where held-back questions are scored.")

    def open(self, model: str, split: Split, seed: int) -> Task:
        """Load the model; see ``rag.training.seal_task`` for the rest."""
        from rag.training.seal_task import SealTask

        return SealTask(self, model, split, seed)
