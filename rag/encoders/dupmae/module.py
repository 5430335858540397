"""The unified representation as a module of sentence-transformers, to train and to encode with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor

from rag.encoders.dupmae.represent import Unified
from rag.encoders.dupmae.store import KEPT
from rag.errors import BackendFailed, InvalidInput


class UnifiedModule(InputModule):  # type: ignore[misc]
    """One vector a text, h' then mu: (d + V,), whose dot product is the score of the paper.

    The weights of a document (``encode_document``) are 0 but for its ``kept`` largest; those of a
    question (``encode_query``), and of a text that is neither, are whole. So
    ``SentenceTransformer(modules=[UnifiedModule(unified, tokenizer)], similarity_fn_name="dot")``
    gives what ``store.ForwardStore.scores`` gives, and trains with its trainers and losses.

    A saved folder is loaded with ``SentenceTransformer(folder, trust_remote_code=True)``: since 6.0
    sentence-transformers asks that for every class that is not its own. ``Unified.load`` and
    ``load_encoder`` open the same folder without it.
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

    @property
    def model(self) -> Any:
        """The model of transformers in it, without its head."""
        return self.unified.encoder.bert

    @property
    def parts(self) -> tuple[int, int]:
        """d, and how many tokens a document keeps."""
        vocabulary: int = self.unified.encoder.config.vocab_size
        return len(self.unified.reduce.weight), min(self.kept, vocabulary)

    def get_embedding_dimension(self) -> int:
        """The width d + V."""
        vocabulary: int = self.unified.encoder.config.vocab_size
        return self.parts[0] + vocabulary

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


def opened(name: str, folder: Path, device: str) -> Any:
    """A folder of ``UnifiedModule``, or of ``Unified`` and a tokenizer, as a SentenceTransformer.

    Prompts are those that sentence-transformers saved. ``name`` is for errors.

    Raises:
        InvalidInput: modules.json names another module, whose code would be run; no W_cls is
            there, or names or shapes differ.
        BackendFailed: a file cannot be read.
    """
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    from rag.models.load import quiet

    ours = f"{UnifiedModule.__module__}.{UnifiedModule.__qualname__}"
    try:
        modules = _json(folder / "modules.json") or [{"type": ours}]
        saved = _json(folder / "config_sentence_transformers.json") or {}
        settings = _json(folder / UnifiedModule.config_file_name) or {}
        if [module["type"] for module in modules] != [ours]:
            raise InvalidInput(
                f"{name}: {folder / 'modules.json'} names other modules than {ours}, and code that "
                "a model brings is not run"
            )
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        unified = Unified.load(folder)
        longest = int(unified.encoder.config.max_position_embeddings)
        module = UnifiedModule(unified, tokenizer, **{"max_seq_length": longest, **settings})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise BackendFailed(f"cannot load the encoder {name} (in {folder}): {error}") from error
    return SentenceTransformer(
        modules=[module],
        device=device,
        prompts=saved.get("prompts"),
        default_prompt_name=saved.get("default_prompt_name"),
        similarity_fn_name="dot",
    )


def _json(file: Path) -> Any:
    """What a file of JSON holds; None where there is none."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else None
