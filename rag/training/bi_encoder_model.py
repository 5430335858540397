"""What ``bi_encoder`` trains: a BERT and what makes one vector of a text; its two losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rag.encoders.dupmae.store import KEPT

Pooling = Literal["cls", "mean", "unified"]


def load(
    model: str, pooling: Pooling, similarity: Literal["dot", "cosine"], dimensions: int
) -> tuple[Vectors | UnifiedVectors, Any]:
    """The model to train from any BERT's folder, and its tokenizer.

    Raises:
        NotFound, InvalidInput, BackendFailed: as ``rag.encoders.dupmae.load.read_masked_lm``.
    """
    from transformers import AutoTokenizer

    from rag.encoders.dupmae import Unified
    from rag.encoders.dupmae.load import read_masked_lm
    from rag.encoders.load import folder_of_encoder
    from rag.models.load import quiet

    folder = folder_of_encoder(model)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if pooling != "unified":
        body = read_masked_lm(folder, fresh_head=True).bert
        return Vectors(body, pooling, normalize=similarity == "cosine"), tokenizer
    if (folder / "reduction").is_dir():
        return UnifiedVectors(Unified.load(folder)), tokenizer
    return UnifiedVectors(Unified(read_masked_lm(folder, fresh_head=True), dimensions)), tokenizer


class Vectors(nn.Module):  # type: ignore[misc]
    """One vector a text, (n, d): of [CLS], or the mean over tokens; of length 1 where asked."""

    def __init__(self, bert: nn.Module, pooling: Literal["cls", "mean"], *, normalize: bool):
        """Hold a ``BertModel``."""
        super().__init__()
        self.bert, self._pooling, self._normalize = bert, pooling, normalize

    def forward(self, tokens: dict[str, Tensor], *, document: bool) -> Tensor:
        """The vectors of texts; questions and passages are read alike."""
        hidden = self.bert(**tokens).last_hidden_state  # (n, l, d)
        if self._pooling == "cls":
            found = hidden[:, 0]
        else:
            mask = tokens["attention_mask"][..., None].to(hidden.dtype)
            found = (hidden * mask).sum(1) / mask.sum(1)
        return F.normalize(found, dim=-1) if self._normalize else found

    def gradient_checkpointing_enable(self) -> None:
        """Compute the BERT's activations again in the backward pass."""
        self.bert.gradient_checkpointing_enable()

    def save(self, folder: Path, tokenizer: Any, longest: int) -> None:
        """A folder of sentence-transformers; texts are cut to ``longest`` tokens."""
        import tempfile

        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer import modules as parts

        from rag.models.load import quiet

        with tempfile.TemporaryDirectory() as plain, quiet():
            self.bert.save_pretrained(plain)
            tokenizer.save_pretrained(plain)
            read = parts.Transformer(plain, max_seq_length=longest)
            width = self.bert.config.hidden_size
            modules = [read, parts.Pooling(width, pooling_mode=self._pooling)]
            modules += [parts.Normalize()] if self._normalize else []
            similarity = "cosine" if self._normalize else "dot"
            made = SentenceTransformer(modules=modules, similarity_fn_name=similarity, device="cpu")
            made.save(str(folder), create_model_card=False)


class UnifiedVectors(nn.Module):  # type: ignore[misc]
    """DupMAE's two parts as one vector (n, d + V); of a passage the largest weights alone."""

    def __init__(self, unified: Any) -> None:
        """Hold a ``rag.encoders.dupmae.Unified``."""
        super().__init__()
        self.unified = unified

    def forward(self, tokens: dict[str, Tensor], *, document: bool) -> Tensor:
        """The vectors of questions, or of passages (``document``)."""
        dense, mu = self.unified(**tokens)
        if document and mu.shape[1] > KEPT:
            least = mu.detach().topk(KEPT, dim=1).values[:, -1:]
            mu = mu * (mu >= least)
        return torch.cat([dense, mu], dim=1)

    def gradient_checkpointing_enable(self) -> None:
        """Compute the BERT's activations again in the backward pass."""
        self.unified.encoder.gradient_checkpointing_enable()

    def save(self, folder: Path, tokenizer: Any, longest: int) -> None:
        """A folder that ``Unified.load`` and, by ``UnifiedModule``, sentence-transformers open."""
        from sentence_transformers import SentenceTransformer

        from rag.encoders.dupmae import UnifiedModule
        from rag.models.load import quiet

        module = UnifiedModule(self.unified, tokenizer, max_seq_length=longest)
        with quiet():
            made = SentenceTransformer(modules=[module], similarity_fn_name="dot", device="cpu")
            made.save(str(folder), create_model_card=False)


def contrastive(questions: Tensor, passages: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of each question's passage among all passages of the batch.

    Args:
        questions: (n, d).
        passages: (m, d), the n that answer first, then hard negatives.
        temperature: what dot products are divided by.
    """
    scores = questions @ passages.T / temperature
    return F.cross_entropy(scores, torch.arange(len(questions), device=scores.device))


def distilled(questions: Tensor, passages: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The cross-entropy of a question's passages between a cross-encoder's scores and the model's.

    Args:
        questions: (n, d).
        passages: (n + n h, d): the n that answer, then h hard negatives of each question in turn.
        teacher: (n, 1 + h), the scores of each question's positive and of its negatives.
        temperature: what the model's dot products are divided by.
    """
    n = len(questions)
    own = torch.cat([passages[:n, None], passages[n:].unflatten(0, (n, -1))], dim=1)  # (n, 1+h, d)
    scores = torch.einsum("nd,nhd->nh", questions, own) / temperature
    return F.cross_entropy(scores, teacher.to(scores.dtype).softmax(-1))
