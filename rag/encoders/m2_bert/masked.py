"""An M2-BERT with a head for masked tokens, as it is pre-trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from rag.encoders.m2_bert.model import M2Bert
from rag.errors import BackendFailed, InvalidInput

FILE = "mlm_head/head.safetensors"
"""In the folder of a saved encoder."""


class Head(nn.Module):  # type: ignore[misc]
    """BERT's head: dense, GELU, LayerNorm, then the word embeddings and a bias."""

    def __init__(self, width: int, words: int, eps: float, std: float) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(words))
        nn.init.normal_(self.dense.weight, std=std)
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """(n, width) and the embeddings, (words, width), to logits (n, words)."""
        made = self.norm(functional.gelu(self.dense(hidden)))
        return functional.linear(made, words, self.bias)


class MaskedLM(nn.Module):  # type: ignore[misc]
    """The M2-BERT of a ``SentenceTransformer`` with a head, which its folder may hold."""

    def __init__(self, encoder: Any, name: str) -> None:
        """Take an encoder, opened from the folder ``name``; its head is read, or drawn at random.

        Raises:
            InvalidInput: it is no M2-BERT.
            BackendFailed: the head's file cannot be read, or is of another model.
        """
        super().__init__()
        body = encoder[0].auto_model
        if not isinstance(body, M2Bert):
            raise InvalidInput(f"{name}: is a {type(body).__name__}, and no M2-BERT")
        self.encoder, self._body = encoder, [body]  # in a list: the encoder registers it
        config = body.config
        self.head = Head(
            config.hidden_size, config.vocab_size, config.layer_norm_eps, config.initializer_range
        )
        file = Path(name) / FILE
        if file.is_file():
            try:
                self.head.load_state_dict(load_file(file))
            except (OSError, SafetensorError, RuntimeError) as error:
                raise BackendFailed(f"{file}: the head cannot be read: {error}") from error

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy of the tokens whose label is not negative; all (batch, length)."""
        body = self._body[0]
        hidden = body(input_ids, attention_mask=attention_mask).last_hidden_state
        chosen = labels >= 0  # only masked tokens need logits, which are many words wide
        logits = self.head(hidden[chosen], body.get_input_embeddings().weight)
        # a batch without a masked token has the loss 0
        return functional.cross_entropy(logits.float(), labels[chosen], reduction="sum") / max(
            1, int(chosen.sum())
        )

    def gradient_checkpointing_enable(self) -> None:
        """Compute activations again in the backward pass."""
        self._body[0].gradient_checkpointing_enable()

    def save(self, folder: Path) -> None:
        """The encoder as sentence-transformers does, and `FILE`."""
        from rag.models.load import quiet

        with quiet():
            self.encoder.save(str(folder), create_model_card=False)
        (folder / FILE).parent.mkdir(exist_ok=True)
        save_file(self.head.state_dict(), folder / FILE)
