"""What an objective is. This docstring is the contract, and it rules.

An **objective** is settings: a frozen pydantic model whose fields are its YAML keys, as a stage is.
``open(model, split, seed)`` loads the model and returns a **task**, which says

- ``model``: the module that is trained. Parameters that stay as they are have ``requires_grad``
  False; they are not in checkpoints.
- ``rows``: what the training side gives to learn from, at least one. The first part of a row is the
  id that errors name it by.
- ``collate(rows, draw) -> batch``: rows to a dict of tensors (and lists of tensors). What is drawn
  at random comes from ``draw``, or from torch's own generator, which is seeded before every batch:
  so a batch hangs on the seed and its place in the training alone, and a resumed one is the same.
- ``loss(model, batch)``: the loss, a scalar. ``model`` is the task's, perhaps wrapped.
- ``score() -> {measure: {id: value}}``: how good the model is on the held-back side, for each
  question or document. It runs without gradients, before and after training.
- ``save(folder)``: the trained model as others open it.

What goes wrong for all rows raises an error of ``rag.errors`` in ``open``, before time is spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from rag.named import Named

if TYPE_CHECKING:
    import numpy as np

    from rag.training.data import Split

Scores: TypeAlias = Mapping[str, Mapping[str, float]]
"""Value by id, by the name of a measure such as ``nDCG@10``."""


class Objective(Named):
    """The settings of an objective; see the module's docstring for the contract.

    ``class Mine(Objective, name="mine")`` registers the class under the name that YAML uses.
    """

    group = "objectives"
    needs: ClassVar[frozenset[str]] = frozenset({"documents", "questions"})
    """What the data must hold: documents, and questions with judgements."""

    def files(self, model: str) -> list[Path]:
        """The files that ``model`` names: what comes out hangs on them."""
        from rag.encoders.load import PACKAGED, files_of_encoder
        from rag.models.place import files_of, place_of

        return files_of_encoder(model) if model in PACKAGED else files_of(place_of(model))

    def open(self, model: str, split: Split, seed: int) -> Task:
        """Load ``model`` and build what is learned from the training side."""
        raise NotImplementedError(f"{type(self).__name__} has no open()")


class Task:
    """An opened objective; see the module's docstring."""

    model: Any
    rows: Sequence[Any]

    def collate(self, rows: Sequence[Any], draw: np.random.Generator) -> dict[str, Any]:
        """The rows as one batch of tensors."""
        raise NotImplementedError

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        """The loss of a batch, a scalar tensor."""
        raise NotImplementedError

    def order(self, draw: np.random.Generator) -> Sequence[int]:
        """The rows of one epoch, in order, by number; default: all of them, shuffled."""
        numbers: list[int] = draw.permutation(len(self.rows)).tolist()
        return numbers

    def tune(self, optimizer: Any) -> None:
        """Change the groups of AdamW before the first step: rates of their own, betas."""

    def score(self) -> Scores:
        """Values of the held-back side; the first measure is the one that counts."""
        return {}

    def higher_is_better(self, measure: str) -> bool:
        """Whether a higher value of a measure is a better one."""
        return "loss" not in measure

    def references(self) -> dict[str, Mapping[str, float]]:
        """What the first measure is by other means (BM25, ...), name to value by id."""
        return {}

    def notes(self) -> list[str]:
        """Sentences for the report: what was left out, how much there is of what."""
        return []

    def save(self, folder: Path) -> None:
        """Write the model, as others open it, into a new folder."""
        raise NotImplementedError
