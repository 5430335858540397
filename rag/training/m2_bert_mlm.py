"""The objective ``m2_bert``: pre-training by masked tokens on short and long texts together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from rag.errors import InvalidInput
from rag.training.objective import Objective, Scores, Task

if TYPE_CHECKING:
    import numpy as np

    from rag.training.data import Document, Split

EVALUATED = 0.15
"""The part of tokens masked for a score, as published."""
MEASURES = ("short mlm loss", "long mlm loss")

Rows = list[tuple[str, list[int]]]


class M2BertMLM(Objective, name="m2_bert"):
    """Pre-train an M2-BERT by masked tokens (arXiv 2402.07440).

    A row is either one document, of whatever length, or documents joined by [SEP] until the model's
    length is full; in both [CLS] stands first, and what is too long is cut. An epoch has all long
    rows once, and as many short ones, drawn, as make ``long_share`` true. The paper mixes three
    corpora by thirds; here all documents are one.

    With ``length`` a shorter model is first made longer, as the paper makes that of 32,768 tokens
    of that of 8,192. Saved is the encoder as sentence-transformers does, to be fine-tuned by
    ``orthogonal_projection``, and the head for masked tokens beside it, for more pre-training.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"documents"})

    masked: float = Field(0.3, gt=0, lt=1, description="The part of tokens masked.")
    long_share: float = Field(
        0.7, ge=0, le=1, description="The part of rows that are joined to the full length."
    )
    length: int | None = Field(
        None, gt=8, description="Make a model that reads so many tokens; default: as it is."
    )
    kernel_rate: float | None = Field(
        1e-3, gt=0, description="Learning rate of the kernels' networks; null: of the rest."
    )
    kernel_decay: float = Field(0.1, ge=0, description="Their weight decay, with kernel_rate.")

    def open(self, model: str, split: Split, seed: int) -> Task:
        """Load the model and join the documents.

        Raises:
            NotFound, InvalidInput, BackendFailed: the model cannot be used, or there is no text.
        """
        from rag.encoders.m2_bert.masked import MaskedLM
        from rag.encoders.m2_bert.training import open_encoder

        encoder = open_encoder(model, self.length)
        return MLMTask(self, MaskedLM(encoder, model), split, seed)


def rows_of(documents: Mapping[str, Document], tokenizer: Any, length: int) -> tuple[Rows, Rows]:
    """Short rows, a document each, and long ones, of documents one after the other.

    Args:
        documents: by id; title and text are read.
        tokenizer: a BERT's.
        length: tokens of a long row, and the most of a short one, special ones included.

    Returns:
        Name and token ids of each; a long row is named by the document that it begins with. What
        is left of the last one is a row of its own, if none is full.
    """
    texts = [f"{d.title} {d.text}".strip() for d in documents.values()]
    if not texts:
        return [], []
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    read = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    short: Rows = []
    long: Rows = []
    name, row = "", [begin]
    for one, ids in zip(documents, read, strict=True):
        if not ids:
            continue
        short.append((one, [begin, *ids[: length - 2], end]))
        rest = [*ids, end]
        while rest:
            name = name or one
            space = length - len(row)
            row, rest = row + rest[:space], rest[space:]
            if len(row) == length:
                long.append((f"{name}+", row))
                name, row = "", [begin]
    if not long and len(row) > 1:
        long.append((f"{name}+", row))
    return short, long


class MLMTask(Task):
    """An opened objective ``m2_bert``."""

    def __init__(self, settings: M2BertMLM, model: Any, split: Split, seed: int) -> None:
        """Hold the model with its head, and make the rows of both sides.

        Raises:
            InvalidInput: the documents hold no text.
        """
        from transformers import DataCollatorForLanguageModeling

        self._settings, self.model, self._seed = settings, model, seed
        tokenizer = model.encoder.tokenizer
        length = int(model.encoder.max_seq_length)
        self._mask = {
            rate: DataCollatorForLanguageModeling(tokenizer, mlm_probability=rate)
            for rate in (settings.masked, EVALUATED)
        }
        self._short, self._long = rows_of(split.train.documents, tokenizer, length)
        if not self._short:
            raise InvalidInput("the documents to learn from hold no text")
        self._held = rows_of(split.held.documents, tokenizer, length)
        self.rows = self._long + self._short

    def order(self, draw: np.random.Generator) -> Sequence[int]:
        """All long rows, and short ones drawn by their share; shuffled."""
        share, long = self._settings.long_share, len(self._long)
        if share == 0:
            return [long + at for at in draw.permutation(len(self._short)).tolist()]
        count = round(long * (1 - share) / share)
        times = -(-count // len(self._short))
        drawn = [long + at for _ in range(times) for at in draw.permutation(len(self._short))]
        chosen = [*range(long), *map(int, drawn[:count])]
        return [chosen[at] for at in draw.permutation(len(chosen)).tolist()]

    def collate(self, rows: Sequence[Any], draw: np.random.Generator) -> dict[str, Any]:
        """Padded tokens, some masked, and what stood there."""
        return self._masked(rows, self._settings.masked)

    def _masked(self, rows: Sequence[Any], rate: float) -> dict[str, Any]:
        batch = self._mask[rate]([{"input_ids": ids} for _, ids in rows])
        return {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}

    def loss(self, model: Any, batch: dict[str, Any]) -> Any:
        """The cross-entropy of the masked tokens."""
        return model(**batch)

    def tune(self, optimizer: Any) -> None:
        """AdamW as published, and rates for the kernels."""
        from rag.encoders.m2_bert.training import rate_of_kernels

        for group in optimizer.param_groups:
            group["betas"], group["eps"] = (0.9, 0.98), 1e-6
        if self._settings.kernel_rate is not None:
            decay = self._settings.kernel_decay
            own = {"weight_decay": decay, "betas": (0.9, 0.98), "eps": 1e-6}
            rate_of_kernels(self.model, optimizer, self._settings.kernel_rate, **own)

    def score(self) -> Scores:
        """The losses of held-back rows with 15% masked, the same tokens before and after."""
        import torch

        device = self.model.encoder.device
        found: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            for measure, rows in zip(MEASURES, self._held, strict=True):
                for name, ids in rows:
                    batch = self._masked([(name, ids)], EVALUATED)
                    if (batch["labels"] >= 0).any():
                        placed = {key: value.to(device) for key, value in batch.items()}
                        found[measure][name] = float(self.model(**placed))
        return found

    def notes(self) -> list[str]:
        """How much is read."""
        tokens, share = sum(len(ids) for _, ids in self._short), self._settings.long_share
        rows = f"{len(self._long):,} long rows and {len(self._short):,} short ones"
        return [f"{rows} of {tokens:,} tokens; {share:.0%} of an epoch are long ones."]

    def save(self, folder: Path) -> None:
        """The encoder as sentence-transformers does, with the head beside it."""
        self.model.save(folder)
