"""An objective that learns in milliseconds, for tests of the frame: a line through points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file

from rag.training.data import Split
from rag.training.objective import Objective, Scores, Task


class Line(Objective, name="tiny_line"):
    """Learn a line; dropout and noise are drawn, so that the generators matter."""

    nan_at: str | None = Field(None, description="The row whose loss is no number.")
    width: int = Field(4, gt=0, description="Of the hidden layer.")

    def files(self, model: str) -> list[Path]:
        return []

    def open(self, model: str, split: Split, seed: int) -> Task:
        return LineTask(self, split)


class LineTask(Task):
    def __init__(self, settings: Line, split: Split) -> None:
        self._settings, self._split = settings, split
        self.model = torch.nn.Sequential(
            torch.nn.Linear(1, settings.width), torch.nn.Dropout(0.2), torch.nn.BatchNorm1d(4),
            torch.nn.Linear(settings.width, 1),
        )  # fmt: skip
        self.model[0].bias.requires_grad_(False)
        self.rows = [(name, float(len(text))) for name, text in split.train.questions.items()]

    def collate(self, rows: Sequence[Any], draw: np.random.Generator) -> dict[str, Any]:
        x = torch.tensor([[value] for _, value in rows]) / 50 + torch.randn(len(rows), 1)
        y = 2 * x + float(draw.normal())
        if self._settings.nan_at in [name for name, _ in rows]:
            y = y * float("nan")
        return {"x": x, "y": y}

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        return torch.nn.functional.mse_loss(model(batch["x"]), batch["y"])

    def score(self) -> Scores:
        x = torch.rand(1)  # a score draws too, and must not move the training
        every = {name: float(len(text)) for name, text in self._split.held.questions.items()}
        out = self.model(torch.tensor([[value] for value in every.values()]) / 50 + 0 * x)
        off = (out[:, 0] - 2 * torch.tensor(list(every.values())) / 50).abs().tolist()
        return {"loss": dict(zip(every, off, strict=True))}

    def references(self) -> dict[str, Mapping[str, float]]:
        return {"nothing": dict.fromkeys(self._split.held.questions, 1.0)}

    def save(self, folder: Path) -> None:
        folder.mkdir()
        save_file(self.model.state_dict(), folder / "model.safetensors")
