"""The unified representation as a module of sentence-transformers, to train and to encode with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from rag.encoders.dupmae.represent import Unified
from rag.encoders.dupmae.store import KEPT


class UnifiedModule(InputModule):  # type: ignore[misc]
    """One vector a text, h' then mu: (d + V,), whose dot product is the score of the paper.

    The weights of a document (``encode_document``) are 0 but for its ``kept`` largest; those of a
    question (``encode_query``), and of a text that is neither, are whole. So
    ``SentenceTransformer(modules=[UnifiedModule(unified, tokenizer)], similarity_fn_name="dot")``
    gives what ``store.ForwardStore.scores`` gives, and trains with its trainers and losses.

    A saved folder is loaded with ``SentenceTransformer(folder, trust_remote_code=True)``: since 6.0
    sentence-transformers asks that for every class that is not its own. ``Unified.load`` opens the
    same folder without it.
    """

    config_file_name = "dupmae_config.json"
    config_keys: ClassVar[list[str]] = ["kept", "max_seq_length"]
    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(
        self, unified: Unified, tokenizer: Any, *, kept: int = KEPT, max_seq_length: int = 512
    ) -> None:
        """Hold the model; texts are cut to ``max_seq_length`` tokens, special ones included."""
        super().__init__()
        self.unified, self.tokenizer = unified, tokenizer
        self.kept, self.max_seq_length = kept, max_seq_length

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The tokens of texts, padded to the longest."""
        texts = [(prompt or "") + text for text in inputs]
        made = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.max_seq_length,
            return_tensors="pt",
        )
        return {name: made[name] for name in ("input_ids", "attention_mask")}

    def forward(
        self, features: dict[str, Tensor], task: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Write ``sentence_embedding``, (B, d + V)."""
        dense, mu = self.unified(features["input_ids"], features["attention_mask"])
        if task == "document" and self.kept < mu.shape[1]:
            # As the store does it: of equal weights those of smaller ids stay.
            best = torch.sort(mu, dim=1, descending=True, stable=True).indices[:, : self.kept]
            mu = torch.zeros_like(mu).scatter(1, best, mu.gather(1, best))
        features["sentence_embedding"] = torch.cat([dense, mu], dim=1)
        return features

    def get_embedding_dimension(self) -> int:
        """The width d + V."""
        vocabulary: int = self.unified.encoder.config.vocab_size
        return len(self.unified.reduce.weight) + vocabulary

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save model, tokenizer and settings into a folder."""
        self.unified.save(output_path)
        self.save_tokenizer(output_path)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> UnifiedModule:
        """What ``save`` wrote; a folder, since nothing is downloaded here."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model_name_or_path, local_files_only=True)
        settings = cls.load_config(model_name_or_path, local_files_only=True)
        return cls(Unified.load(model_name_or_path), tokenizer, **settings)
