"""The unified representation of DupMAE: a vector of [CLS], and a weight for each token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rag.encoders.dupmae.load import read_masked_lm
from rag.encoders.dupmae.model import token_max
from rag.errors import BackendFailed, InvalidInput

DIMENSIONS = 384
_REDUCTION = "reduction"  # a folder: other *.safetensors beside the encoder's would be taken for it


class Unified(nn.Module):  # type: ignore[misc]
    """What DupMAE gives a text: h' (d,) and mu (V,), after Section 3.4 of the paper.

        h' = W_cls h_[CLS]            (hidden size to 384; no bias)
        mu_v = max over positions i = 1.. of head(h_i)_v

    A document keeps the largest entries of mu (``store.ForwardStore``); a question keeps all.
    Nothing is normalised. The published code has no such representation. The paper projects by a
    linear W_O; the checkpoints hold the MLM head, which pre-training trained for this, so that is
    the head here, with [SEP] among the positions as there. The paper names no activation, and
    there is none. W_cls is no part of any checkpoint: drawn at random, it has to be trained.
    """

    def __init__(self, encoder: Any, dimensions: int = DIMENSIONS) -> None:
        """Reduce the [CLS] vectors of a ``BertForMaskedLM`` to ``dimensions``."""
        super().__init__()
        self.encoder = encoder
        self.reduce = nn.Linear(encoder.config.hidden_size, dimensions, bias=False)
        nn.init.normal_(self.reduce.weight, std=encoder.config.hidden_size**-0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of B texts of at most L tokens, [CLS] first.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 0 for padding, which changes nothing.

        Returns:
            h' (B, d) and mu (B, V).
        """
        hidden = self.encoder.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        return self.reduce(hidden[:, 0]), token_max(self.encoder.cls(hidden), attention_mask)

    def save(self, folder: Path | str) -> None:
        """Save the encoder as transformers does, and W_cls in the folder ``reduction``."""
        from safetensors.torch import save_file

        path = Path(folder)
        self.encoder.save_pretrained(path)
        (path / _REDUCTION).mkdir(exist_ok=True)
        weight = self.reduce.weight.detach().contiguous()
        save_file({"weight": weight}, path / _REDUCTION / "model.safetensors")

    @classmethod
    def load(cls, folder: Path | str) -> Unified:
        """What ``save`` wrote, ready to run (no dropout).

        Raises:
            NotFound: the folder holds no model.
            InvalidInput: no W_cls is there, or names or shapes differ.
            BackendFailed: a file cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        encoder = read_masked_lm(folder)
        file = Path(folder) / _REDUCTION / "model.safetensors"
        if not file.is_file():
            raise InvalidInput(
                f"{folder}: no {_REDUCTION}/model.safetensors, the reduction of [CLS], which no "
                "pre-trained checkpoint holds; make Unified(encoder), train it and save() it"
            )
        try:
            state = load_file(file)
        except (OSError, SafetensorError) as error:
            raise BackendFailed(f"cannot read {file}: {error}") from error
        weight, hidden = state.get("weight"), encoder.config.hidden_size
        if list(state) != ["weight"] or weight.dim() != 2 or weight.shape[1] != hidden:
            found = ", ".join(f"{name} {tuple(w.shape)}" for name, w in state.items()) or "nothing"
            raise InvalidInput(f"{file}: expected 'weight' of (d, {hidden}), found {found}")
        unified = cls(encoder, len(weight))
        with torch.no_grad():
            unified.reduce.weight.copy_(weight)
        unified.eval()
        return unified
